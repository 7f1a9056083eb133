"""Write a model as a folder of its own, to give away, and publish it on Hugging Face's hub.

example:
  python -m stages.export exported/ --push-to-hub owner/name --dry-run
reads:
  a finished run, and for the accuracy in the model card results/, or a folder that evaluate --run wrote
writes:
  weights, settings, model card, run record, and the network as ONNX, which is checked against PyTorch

--push-to-hub uploads these five files after they are written. It needs a token (`hf auth login`, or HF_TOKEN). With
--dry-run it uploads nothing, needs neither network nor token, and prints what it would upload. The repository is
private unless you add --public: weights that were trained on licensed data may fall under its licence, and what was
public once cannot be taken back.

It needs the extra `export`, which make setup installs.
"""

import logging
from pathlib import Path

from pipeline.common.command_line import add_run, stage_parser
from pipeline.common.errors import UserError, exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__)
    parser.add_argument("folder", type=Path, help="folder to write")
    add_run(parser)
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="results of this run, for the card (results, if they are of it)"
    )
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="repository to upload the folder to")
    parser.add_argument("--dry-run", action="store_true", help="print what would be uploaded")
    parser.add_argument("--public", action="store_true", help="everyone may download the repository")
    arguments = parser.parse_args()
    repository = arguments.push_to_hub
    if (arguments.dry_run or arguments.public) and not repository:
        raise UserError("--dry-run and --public concern an upload; name its repository with --push-to-hub owner/name")

    from pipeline.serving.export import export_run
    from pipeline.serving.hub import check_upload, list_upload, push

    if repository:
        check_upload(repository, arguments.dry_run)  # before the export, which takes a while
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it prints a line for each operation that it keeps as is
    difference = export_run(arguments.run, arguments.results, arguments.folder)
    print(f"{arguments.folder}: model.onnx differs from PyTorch by at most {difference:.1e}")
    if arguments.dry_run:
        visibility = "public" if arguments.public else "private"
        print(f"would be uploaded to {repository} ({visibility}):", *list_upload(arguments.folder), sep="\n")
    elif repository:
        print(f"uploaded to {push(arguments.folder, repository, arguments.public)}")


if __name__ == "__main__":
    main()
