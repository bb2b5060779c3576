"""`push_to_hub`: whether the hub can be reached and takes the key, and what to say where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dunwu._utils.commands import hf_command
from dunwu._utils.distributed import is_main_process
from dunwu._utils.secrets import redact
from dunwu.errors import HubError
from dunwu.hub.errors import is_connection_error
from dunwu.hub.offline import is_offline, offline_if_unreachable
from dunwu.hub.sources import hf_endpoint

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["check_push_to_hub", "push_command", "why_no_push", "why_push_failed"]


def check_push_to_hub(args: TrainingArguments) -> None:
    """Check that a run with `push_to_hub` can push; transformers would fail with a traceback, or after the run.

    Asks the hub whose key it is, on the main process only. Without `push_to_hub` nothing is asked.

    Raises:
        HubError: where the hub cannot be reached, is offline, or does not take the key.
    """
    if not args.push_to_hub or not is_main_process():
        return
    reason = why_no_push(args.hub_token)
    if reason is not None:
        later = push_command("NAME", str(args.output_dir))
        raise HubError(f"push_to_hub=True, and {reason}; or set push_to_hub=False, and upload later with `{later}`")


def why_no_push(token: str | None) -> str | None:
    """Why nothing can be pushed from here, and what to do; None where it can. Asks the hub whose key it is.

    Args:
        token: the key; None is the one that the user logged in with.
    """
    if offline_if_unreachable() is not None:
        return f"{hf_endpoint()} cannot be reached from here"
    if is_offline():
        return "HF_HUB_OFFLINE is set; unset it"
    from huggingface_hub import HfApi, get_token

    if not (token or get_token()):
        return f"there is no key: `{hf_command('auth', 'login')}`, or set HF_TOKEN"
    try:
        HfApi().whoami(token=token)
    except Exception as error:
        reason = why_push_failed(error)
        if reason is None:
            raise
        return reason
    return None


def why_push_failed(error: BaseException) -> str | None:
    """A sentence for what a hub's client raised; None where it is no client's error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{hf_endpoint()} does not take the key ({status}); make one that may write there, and set HF_TOKEN"
    if isinstance(status, int) and status >= 500:
        return f"the hub is down (it answers {status})"
    if is_offline() or is_connection_error(error):
        return f"{hf_endpoint()} cannot be reached from here"
    packages = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    if packages & {"huggingface_hub", "httpx", "requests"}:
        return redact(f"the hub refused it ({' '.join(str(error).split())[:200] or type(error).__name__})")
    return None


def push_command(name: str, folder: str) -> str:
    """The command that pushes a folder later, without its checkpoints.

    Example: `push_command("me/mine", "runs/one").endswith("hf upload me/mine runs/one --exclude 'checkpoint-*/*'")`
    is `True`.
    """
    return hf_command("upload", name, folder, "--exclude", "checkpoint-*/*")
