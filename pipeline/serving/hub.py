"""An exported folder on Hugging Face's hub."""

from pathlib import Path

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # documented, yet not in __all__

from pipeline.common.errors import UserError
from pipeline.serving.export import EXPORTED_NAMES


def check_upload(repository: str, dry_run: bool) -> None:
    """Raise `UserError` for a name that no repository can have and, unless it is a `dry_run`, without a token.

    The check needs no network.
    """
    try:
        validate_repo_id(repository)
        has_owner = repository.count("/") == 1
    except HFValidationError:
        has_owner = False
    if not has_owner:
        raise UserError(f"--push-to-hub is {repository!r}, expected owner/name, with letters, digits, -, _ and .")
    if not dry_run and get_token() is None:
        raise UserError("there is no token for Hugging Face's hub; run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, repository: str, public: bool) -> str:
    """Upload an exported folder, and nothing else that lies in it, to a repository; returns its address.

    The repository is made if it does not exist. Raises `UserError` if it exists and is public although `public` is
    false, or the other way round, and if the hub does not answer or refuses.
    """
    api = HfApi()
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True)
        is_public = not api.repo_info(repository).private
        if is_public == public:
            api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(EXPORTED_NAMES))
    except (OSError, httpx.HTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{repository} could not be written to on Hugging Face's hub ({reason}); {folder} is complete; "
            "check the network and the token, and try again"
        ) from None
    if is_public != public:
        found, expected = ("public", "private") if is_public else ("private", "public")
        raise UserError(
            f"{repository} exists and is {found}, expected {expected}, so nothing was uploaded; "
            f"{'add' if is_public else 'leave out'} --public, or name another repository"
        )
    return str(address)


def list_upload(folder: Path) -> list[str]:
    """A line for each file that `push` would upload, with its size in bytes."""
    return [f"{(folder / name).stat().st_size:13,}  {name}" for name in EXPORTED_NAMES]
