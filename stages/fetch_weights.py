"""Fetch the published weights that recipes ask for, once, on a machine with a network.

`python -m stages.fetch_weights [recipe ...]`: by default, for the recipe in params.yaml. Says where each file is, its
SHA-256 (to pin it) and what its network takes and gives; so it also tells whether the recipe's features fit.
"""

import argparse
from pathlib import Path

from pipeline.common.config import Recipe, load_config, load_recipe
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.fetch_weights", description=__doc__.splitlines()[0])
    parser.add_argument("recipes", metavar="recipe", nargs="*", help="names of files in configs/recipe")
    names = parser.parse_args().recipes
    config = load_config()
    for recipe in [load_recipe(name) for name in names] or [config.recipe]:
        fetch_for(recipe, Path(config.execution.pretrained))


def fetch_for(recipe: Recipe, folder: Path) -> None:
    import torch

    from pipeline.models.model import GroupEmotionModel
    from pipeline.models.weights import find

    with torch.device("meta"):  # the networks' settings without their memory
        model = GroupEmotionModel(recipe.model, recipe.features)
    for modality, network in model.backbones().items():
        settings, interface = getattr(recipe.model, modality), network.interface
        takes, gives = (" x ".join(map(str, sizes)) for sizes in (interface.takes, interface.gives))
        print(f"{recipe.name}, {modality}: {settings.name} takes {takes}, gives tokens of {gives} (time x space x D)")
        if found := find(settings, network.published, folder):
            path, sha256 = found
            print(f"  {path}, {path.stat().st_size / 1e6:.0f} MB, SHA-256 {sha256}")


if __name__ == "__main__":
    main()
