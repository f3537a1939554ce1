"""Pre-trained models with their tokenizers or feature extractors: loading, with sentences for what can be wrong."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from common.legacy.adapter_folder import is_adapter
from common.legacy.arguments import ModelArguments
from common.legacy.errors import UserError
from common.legacy.hub import commit_of, fetching

# How architectures that are trained for a task are called; the last of each is of `common.legacy.speech_heads`.
CLASSIFIERS = ("ForSequenceClassification", "PooledClassifier")
RECOGNIZERS = ("ForCTC", "RecurrentCtc")


def load_tokenizer(arguments: ModelArguments):
    """The fast tokenizer of `--tokenizer_name` or `--model`; a slow one, which has no character offsets, is refused."""
    from transformers import AutoTokenizer

    name = arguments.tokenizer_name or arguments.model
    with fetching("model", name):
        tokenizer = AutoTokenizer.from_pretrained(name, **source_of(arguments, name))
    if not tokenizer.is_fast:
        raise UserError(f"{name}: has only a slow tokenizer, which cannot tell where a token stands in the text")
    return tokenizer


def load_feature_extractor(arguments: ModelArguments):
    """The feature extractor of `--tokenizer_name` or `--model`, which says whether waveforms are normalised."""
    from transformers import AutoFeatureExtractor

    from common.legacy.audio import RATE

    name = arguments.tokenizer_name or arguments.model
    with fetching("model", name):
        extractor = AutoFeatureExtractor.from_pretrained(name, **source_of(arguments, name))
    if not hasattr(extractor, "do_normalize") or extractor.sampling_rate != RATE:
        raise UserError(f"{name}: is not made for waveforms at {RATE:,} Hz; choose a HuBERT or wav2vec 2.0 --model")
    return extractor


def load_model(
    auto_class,
    arguments: ModelArguments,
    *,
    head: str,
    training: bool,
    classes: Sequence[str] | None = None,
    configured: Mapping[str, object] | None = None,
    **settings,
):
    """A model with a task head, from a hub id or a folder; only safetensors. Pruned models (`common.legacy.pruning`), too.

    A checkpoint without this head may be trained, which gives it one, but not evaluated.

    Args:
        auto_class: such as `AutoModelForQuestionAnswering`.
        head: what the head is called in messages.
        classes: names of the classes, in the order of the logits; None: the head is not a classifier.
        configured: what to change in the model's configuration before it is built.
        settings: further ones of `from_pretrained`.

    Returns:
        (model, warnings: list of sentences).
    """
    from transformers import AutoConfig

    from common.legacy.pruning import load_pruned

    name = arguments.model
    config_name = arguments.config_name or name
    with fetching("model", name), quietly():
        configuration = AutoConfig.from_pretrained(config_name, **source_of(arguments, config_name))
        if type(configuration) not in auto_class._model_mapping:
            raise UserError(f"{name}: a {configuration.model_type} model has no {head} head; choose another --model")
        made_for = ", ".join(configuration.architectures or ["an unknown task"])
        configuration.update(dict(configured or {}))
        if classes is not None:
            configuration.id2label = dict(enumerate(classes))
            configuration.label2id = {label: index for index, label in enumerate(classes)}
            settings["ignore_mismatched_sizes"] = training  # a head for other classes is replaced
        model, report = load_pruned(
            auto_class,
            name,
            config=configuration,
            dtype=settings.pop("dtype", "float32"),  # transformers 5 would take the checkpoint's, and train in half
            use_safetensors=True,
            output_loading_info=True,
            **source_of(arguments, name),
            **settings,
        )
    missing = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
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
    if report["mismatched_keys"]:
        warnings.append(f"{name} was trained for other classes; its encoder is used, with a new {head} head")
    return model, warnings


def classes_of(arguments: ModelArguments) -> dict[int, str] | None:
    """The classes that `--model` was trained to tell apart, by index; None where it is no trained classifier."""
    from transformers import AutoConfig

    name = arguments.model
    if is_adapter(name):
        raise UserError(f"{name}: is an adapter, not a whole model; make one of it by run_mnli_lora.py --merge")
    config_name = arguments.config_name or name
    with fetching("model", name):
        configuration = AutoConfig.from_pretrained(config_name, **source_of(arguments, config_name))
    trained = any(a.endswith(CLASSIFIERS) for a in configuration.architectures or [])
    return configuration.id2label if trained else None


def trained_processor(arguments: ModelArguments):
    """The processor (characters and feature extractor) of a `--model` that was trained to transcribe, else None."""
    from transformers import AutoConfig, AutoProcessor

    import common.legacy.speech_heads  # noqa: F401 - from here on the auto classes know models with a recurrent head

    name = arguments.model
    with fetching("model", name), quietly():
        configuration = AutoConfig.from_pretrained(name, **source_of(arguments, name))
        if not any(a.endswith(RECOGNIZERS) for a in configuration.architectures or []):
            return None
        processor_name = arguments.tokenizer_name or name
        try:
            return AutoProcessor.from_pretrained(processor_name, **source_of(arguments, processor_name))
        except TypeError:  # so the library says that a file is not there
            raise UserError(f"{processor_name}: has no vocabulary (vocab.json) of a tokenizer of characters") from None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the library's table of missing and unexpected weights: what matters of it is said here.

    Its bars for reading and writing weights stay off from then on; those of training are not its own.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def model_commit(arguments: ModelArguments) -> str | None:
    """The commit of `--model` on the hub; None for a local folder."""
    return commit_of("model", arguments.model, arguments.model_revision, arguments.token)


def source_of(arguments: ModelArguments, name: str) -> dict:
    """What `from_pretrained` needs to find `name`: the commit on the hub, the token and the cache."""
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
