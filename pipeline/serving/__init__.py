"""A trained model in use: predicting files, a page to try it, an exported folder, the challenge's submission."""
