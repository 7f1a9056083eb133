"""A trained model in use: on new files, on a page, exported, in a challenge."""
