"""The weights that a recipe needs, fetched before a training needs them."""

from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.common.recipe import Recipe
from pipeline.models.building import build_backbone
from pipeline.models.weight_files import find, read_tensors


def fetch_recipe_weights(recipe: Recipe, folder: Path) -> Iterator[str]:
    """Fetch the published weights of a recipe into `folder`, unless they are already in it.

    Yields one line about what each network takes and gives, and one about the file of its weights, if it has one.
    Raises `UserError` if the recipe's features do not fit a network, or a file is not the one that it should be,
    or cannot be read.
    """
    with torch.device("meta"):  # what the networks state is known without their memory
        networks = {
            name: build_backbone(name, stream, recipe.model.inputs(recipe.features))
            for name, stream in recipe.model.used.items()
        }
    for name, network in networks.items():
        settings, interface = recipe.model.used[name], network.interface
        takes, gives = (" x ".join(map(str, sizes)) for sizes in (interface.takes, interface.gives))
        yield f"{recipe.name}, {name}: {settings.network} takes {takes}, gives tokens of {gives} (time x space x D)"
        if file := find(settings, network.published, folder):
            # Read now, so that a file which training would refuse is refused before the clips are extracted.
            tensors, size_mb = len(read_tensors(file.path)), file.path.stat().st_size / 1e6
            yield f"  {file.path}, {size_mb:.0f} MB, {tensors} tensors, SHA-256 {file.sha256}"
