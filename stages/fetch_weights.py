"""Fetch the published weights that recipes ask for, and the face detector, on a machine with a network.

example:
  python -m stages.fetch_weights paper strong
reads:
  the settings, configs/recipe/<recipe>.yaml
writes:
  the files of the weights, to the folder that execution.pretrained names
  the face detector, if a recipe looks for people, to the path that extract.face_detector names
  Prints what each network takes and gives, and where the file of its weights is, with its SHA-256.

So it also tells whether a recipe's features fit its networks. To pin a file, set sha256 of the stream to its SHA-256.
Without names, it takes the recipe of the settings. Named recipes are taken as their files are, whatever --set changes.
"""

from pathlib import Path

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__, settings=True)
    parser.add_argument("recipes", metavar="recipe", nargs="*", help="name of a file in configs/recipe/")
    arguments = parser.parse_args()

    from pipeline.common.recipe import load_recipe
    from pipeline.extraction.clip_settings import ClipSettings
    from pipeline.extraction.face_detector import DETECTOR_SHA256, fetch_detector
    from pipeline.models.recipe_weights import fetch_recipe_weights

    config = settings_of(arguments)
    for recipe in [load_recipe(name) for name in arguments.recipes] or [config.recipe]:
        for line in fetch_recipe_weights(recipe, Path(config.execution.pretrained)):
            print(line, flush=True)
        if path := fetch_detector(ClipSettings(features=recipe.features, limits=config.extract)):
            print(f"{recipe.name}, people: {path}, SHA-256 {DETECTOR_SHA256}", flush=True)


if __name__ == "__main__":
    main()
