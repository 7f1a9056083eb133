"""Which clips there are: their names, labels and files; and the drawn demo set."""
