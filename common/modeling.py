"""Pre-trained models and their tokenizers: loading with sentences for what can be wrong, and counting parameters."""

from common.arguments import ModelArguments
from common.errors import UserError
from common.hub import commit_of, fetching


def load_tokenizer(arguments: ModelArguments):
    """The fast tokenizer of `--tokenizer_name` or `--model`; a slow one, which has no character offsets, is refused."""
    from transformers import AutoTokenizer

    name = arguments.tokenizer_name or arguments.model
    with fetching("model", name):
        tokenizer = AutoTokenizer.from_pretrained(name, **_source(arguments, name))
    if not tokenizer.is_fast:
        raise UserError(f"{name}: has only a slow tokenizer, which cannot tell where a token stands in the text")
    return tokenizer


def load_model(auto_class, arguments: ModelArguments, *, head: str, training: bool):
    """A model with a task head, from a hub id or a folder; only safetensors.

    A checkpoint without this head may be trained, which gives it one, but not evaluated.

    Args:
        auto_class: such as `AutoModelForQuestionAnswering`.
        head: what the head is called in messages.

    Returns:
        (model, warnings: list of sentences).
    """
    from transformers import AutoConfig
    from transformers.utils import logging

    name = arguments.model
    source = _source(arguments, name)
    with fetching("model", name):
        config_name = arguments.config_name or name
        configuration = AutoConfig.from_pretrained(config_name, **_source(arguments, config_name))
        if type(configuration) not in auto_class._model_mapping:
            raise UserError(f"{name}: a {configuration.model_type} model has no {head} head; choose another --model")
        made_for = ", ".join(configuration.architectures or ["an unknown task"])
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # its table of missing and unexpected weights; what matters of it is said below
        model, report = auto_class.from_pretrained(
            name, config=configuration, use_safetensors=True, output_loading_info=True, **source
        )
    missing = sorted(report["missing_keys"])
    if missing and not training:
        raise UserError(
            f"{name}: has no trained {head} head (it was made for {made_for}); train it first with --do_train, "
            "or give a checkpoint that this script has trained"
        )
    other_task = [a for a in configuration.architectures or [] if "For" in a and a != type(model).__name__]
    warnings = []
    if missing and other_task and not any(a.endswith(("ForMaskedLM", "ForPreTraining")) for a in other_task):
        warnings.append(
            f"{name} was trained for another task ({made_for}); its encoder is used, with a new {head} head"
        )
    return model, warnings


def model_commit(arguments: ModelArguments) -> str | None:
    """The commit of `--model` on the hub; None for a local folder."""
    return commit_of("model", arguments.model, arguments.model_revision, arguments.token)


def _source(arguments: ModelArguments, name: str) -> dict:
    # A revision belongs to --model; another tokenizer's or configuration's repository has its own main branch.
    revision = arguments.model_revision if name == arguments.model else None
    commit = commit_of("model", name, revision, arguments.token)
    return {"revision": commit or "main", "token": arguments.token, "cache_dir": arguments.cache_dir}


def count_parameters(model) -> dict[str, int]:
    """Total and trainable parameters, as results.json's `model.parameters` wants them."""
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
