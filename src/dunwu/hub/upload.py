"""`push_to_hub`, checked before a run: that the hub can be reached, and that it takes the key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dunwu._utils.distributed import is_main_process
from dunwu.errors import HubError
from dunwu.hub.errors import explain_error
from dunwu.hub.offline import is_offline, offline_if_unreachable
from dunwu.hub.sources import hf_endpoint

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["check_push_to_hub"]


def check_push_to_hub(args: TrainingArguments) -> None:
    """Check that a run with `push_to_hub` can push; transformers would fail with a traceback, or after the run.

    Asks the hub whose key it is, on the main process only. Without `push_to_hub` nothing is asked.

    Raises:
        HubError: where the hub cannot be reached, is offline, or does not take the key.
    """
    if not args.push_to_hub or not is_main_process():
        return
    later = f"set push_to_hub=False, and upload later with `hf upload NAME {args.output_dir}`"
    if offline_if_unreachable() is not None:
        raise HubError(f"push_to_hub=True, and {hf_endpoint()} cannot be reached from here; {later}")
    if is_offline():
        raise HubError(f"push_to_hub=True, and HF_HUB_OFFLINE is set; unset it, or {later}")
    from huggingface_hub import HfApi, get_token

    if not (args.hub_token or get_token()):
        raise HubError(f"push_to_hub=True, and there is no key: `hf auth login`, or set HF_TOKEN; or {later}")
    try:
        HfApi().whoami(token=args.hub_token)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            reason = f"{hf_endpoint()} does not take the key ({status}); make one that may write, and set HF_TOKEN"
        else:
            reason = explain_error(error, str(args.hub_model_id or args.output_dir)) or ""
        if not reason:
            raise
        raise HubError(f"push_to_hub=True, and {reason}; or {later}") from error
