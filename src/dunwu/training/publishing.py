"""A Trainer whose saved models say how they were trained, and whose run survives a hub that fails."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from dunwu.config import GRPOConfig
from dunwu.core.protocols import Scorer
from dunwu.model.architectures import unwrap_model
from dunwu.model.card import ModelCard, card_text, package_versions, write_card
from dunwu.model.publishing import explained_push, push_or_warn, warn_if_no_push

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PublishingTrainer"]


class PublishingTrainer(Trainer):
    """transformers' hooks for a model's card and for pushing it."""

    args: GRPOConfig
    model: PreTrainedModel
    scorer: Scorer
    card_facts: dict[str, Any]
    """Fields of `ModelCard` that whoever runs this trainer knows better than it does: task, data, results."""

    def model_card(self) -> ModelCard:
        """What is known of this run, for README.md."""
        args, scorer = self.args, self.scorer
        weights = args.reward_weights or [1.0] * len(scorer.names)
        card = ModelCard(
            name=Path(str(args.hub_model_id or Path(str(args.output_dir)).absolute())).name,
            base=str(getattr(unwrap_model(self.model).config, "_name_or_path", "") or ""),
            adapter=_adapter(self.model),
            hub_name=str(self.hub_model_id or args.hub_model_id or ""),
            loss=str(args.loss_type),
            settings=_settings(args, self.state.global_step),
            rewards=dict(zip(scorer.names, map(float, weights), strict=True)),
            has_template=bool(getattr(self.processing_class, "chat_template", None)),
            max_new_tokens=args.max_completion_length,
            versions=package_versions("dunwu", "torch", "transformers", *(["peft"] if _adapter(self.model) else [])),
        )
        return replace(card, **self.card_facts)

    def write_model_card(self, folder: str | Path) -> None:
        """README.md beside the model in `folder`; one that somebody wrote by hand stays."""
        if self.is_world_process_zero():
            write_card(Path(folder), card_text(self.model_card()))

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """README.md in the output folder; what is given here is kept for later cards, and wins.

        Args:
            language, license: of the model, by their codes on the hub.
            tags: beside `grpo` and `dunwu`.
            model_name: the card's title.
            finetuned_from: the base.
            dataset: names of the data on a hub; `dataset_tags` where they are not given.
            tasks, dataset_args: taken, as transformers' own method does, and not used.
        """
        given = {
            "language": language,
            "license": license,
            "tags": _listed(tags),
            "name": model_name,
            "base": finetuned_from,
            "datasets": _listed(dataset) or _listed(dataset_tags),
        }
        self.card_facts |= {name: value for name, value in given.items() if value}
        self.write_model_card(str(self.args.output_dir))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save and upload the model; where the hub fails, it is saved, and a warning names the command for later."""
        # The other processes take part in saving; only the main one asks the hub.
        if self.is_world_process_zero() and not self._can_push(token or self.args.hub_token, private):
            self.save_model(_internal_call=True)
            self.create_model_card(**kwargs)
            return None
        push = partial(super().push_to_hub, commit_message, blocking, token, revision, private, **kwargs)
        return push_or_warn(push, str(self.args.output_dir), self._hub_name())

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository on the hub, before the first step of a run that is to be pushed.

        Raises:
            HubError: with what to do, where the hub does not let it.
        """
        with explained_push(str(self.args.output_dir), self._hub_name()):
            super().init_hf_repo(token, private)

    def _can_push(self, token: str | None, private: bool | None) -> bool:
        """Whether the hub takes the model; where it does not, that is said."""
        folder, name = str(self.args.output_dir), self._hub_name()
        if warn_if_no_push(folder, name, token):
            return False
        if self.hub_model_id is None:
            push_or_warn(partial(super().init_hf_repo, token, private), folder, name)
        return self.hub_model_id is not None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        folder, name = str(self.args.output_dir), self._hub_name()
        # Asked first: the upload goes on in the background, where it would print each of its attempts.
        if not warn_if_no_push(folder, name, self.args.hub_token):
            push_or_warn(partial(super()._push_from_checkpoint, checkpoint_folder), folder, name)

    def _hub_name(self) -> str:
        name = self.hub_model_id or self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        return str(name)


def _settings(args: GRPOConfig, step: int) -> dict[str, object]:
    """Rows of the card's table."""
    return {
        "KL coefficient β": f"{args.beta:g}",
        "completions a prompt (G)": args.num_generations,
        "prompts a step": args.prompts_per_step,
        "steps": step,
        "learning rate": f"{args.learning_rate:g}, {cast(Any, args.lr_scheduler_type).value} schedule",
        "token limit of a completion": args.max_completion_length,
        "temperature": f"{args.temperature:g}",
        "seed": args.seed,
    }


def _adapter(model: Any) -> str:
    configs = getattr(model, "peft_config", None) or {}
    return next((str(getattr(one.peft_type, "value", one.peft_type)) for one in configs.values()), "")


def _listed(given: str | list[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())
