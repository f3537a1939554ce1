"""Pre-trained models with their tokenizers or feature extractors: loaded, frozen, counted and compared."""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from common.errors import UserError
from common.hub import fetching, resolved

# How architectures that are trained for a task are called; the last of each is of `common.speech.heads`.
CLASSIFIERS = ("ForSequenceClassification", "PooledClassifier")
RECOGNIZERS = ("ForCTC", "RecurrentCtc")


def load_tokenizer(args):
    """The fast tokenizer of `--tokenizer_name` or `--model`; a slow one, which has no character offsets, is refused."""
    from transformers import AutoTokenizer

    name = args.tokenizer_name or args.model
    with fetching("model", name):
        tokenizer = AutoTokenizer.from_pretrained(name, **source_of(args, name))
    if not tokenizer.is_fast:
        raise UserError(f"{name}: has only a slow tokenizer, which cannot tell where a token stands in the text")
    if tokenizer.pad_token is None:  # GPT-2, Llama
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise UserError(f"{name}: the tokenizer has no token to pad with; give a --tokenizer_name that has one")
    return tokenizer


def check_vocabulary(model, tokenizer, args) -> None:
    """Raises `UserError` where the tokenizer has tokens that the model does not know: those of another model.

    A few added ones that nothing needs are in many published tokenizers.
    """
    known = len(model.get_input_embeddings().weight)
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    needed = max(tokenizer.vocab_size, *(1 + token for token in special if token is not None))
    if needed > known:
        name = args.tokenizer_name or args.model
        raise UserError(
            f"{name}: the tokenizer needs {needed:,} tokens, but {args.model} knows {known:,}; give its own"
        )


def load_feature_extractor(args):
    """The feature extractor of `--tokenizer_name` or `--model`, which says how sound becomes an input."""
    from transformers import AutoFeatureExtractor

    name = args.tokenizer_name or args.model
    with fetching("model", name):
        return AutoFeatureExtractor.from_pretrained(name, **source_of(args, name))


def load_config(args):
    """The configuration of `--config_name` or `--model`."""
    from transformers import AutoConfig

    name = args.config_name or args.model
    with fetching("model", name):
        return AutoConfig.from_pretrained(name, **source_of(args, name))


def load_model(
    auto_class,
    run,
    *,
    head: str,
    training: bool | None = None,
    classes: Sequence[str] | None = None,
    configured: Mapping[str, object] | None = None,
    loader: Callable | None = None,
    **settings,
):
    """A model with a task head, from a hub id or a folder; only safetensors, in float32.

    A checkpoint without this head may be trained, which gives it one, but not evaluated.

    Args:
        auto_class: such as `AutoModelForQuestionAnswering`.
        run: with the arguments; its `warn` gets what is odd about the checkpoint.
        head: what the head is called in messages.
        training: whether a head may be new; None: where the run trains.
        classes: names of the classes, in the order of the logits; None: the head is not a classifier.
        configured: what to change in the model's configuration before it is built.
        loader: (auto_class, name, **settings) -> (model, loading information), in the place of `from_pretrained`.
        settings: further ones of `from_pretrained`.
    """
    args, training = run.args, run.training_args.do_train if training is None else training
    name, config = args.model, load_config(args)
    made_for = ", ".join(config.architectures or ["an unknown task"])
    config.update(dict(configured or {}))
    if classes is not None:
        config.id2label = dict(enumerate(classes))
        config.label2id = {label: index for index, label in enumerate(classes)}
        settings["ignore_mismatched_sizes"] = training  # a head for other classes is replaced
    settings = {"config": config, "dtype": "float32", "use_safetensors": True, **source_of(args, name), **settings}
    with fetching("model", name), quietly():
        try:
            load = loader or (lambda kind, *given, **more: kind.from_pretrained(*given, **more))
            model, report = load(auto_class, name, output_loading_info=True, **settings)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise UserError(f"{name}: a {config.model_type} model has no {head} head; choose another --model") from None
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    missing, encoder = [*report["missing_keys"], *mismatched], f"{model.base_model_prefix}."
    if odd := next((key for key in mismatched if key.startswith(encoder)), None):
        raise UserError(f"{name}: the weights of {odd} have another shape than config.json says; take it anew")
    if new := [key for key in missing if key.startswith(encoder) and re.search(r"\.\d+\.", key)]:
        run.warn(f"{name} has no weights for {len(new)} parts of its layers, the first is {new[0]}: they are random")
    if missing and not training:
        raise UserError(
            f"{name}: has no trained {head} head (it was made for {made_for}); train it first with --do_train, "
            "or give a checkpoint that this script has trained"
        )
    if broken := next((key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()), None):
        raise UserError(f"{name}: the weights of {broken} are not all numbers; the file is damaged, download it again")
    other_task = [a for a in (config.architectures or []) if "For" in a and a != type(model).__name__]
    if missing and other_task and not any(a.endswith(("ForMaskedLM", "ForPreTraining")) for a in other_task):
        run.warn(f"{name} was trained for another task ({made_for}); its encoder gets a new {head} head")
    if mismatched:
        run.warn(f"{name} was trained for other classes; its encoder gets a new {head} head")
    return model


def classes_of(args) -> dict[int, str] | None:
    """The classes that `--model` was trained to tell apart, by index; None where it is no trained classifier."""
    config = load_config(args)
    trained = any(a.endswith(CLASSIFIERS) for a in config.architectures or [])
    return config.id2label if trained else None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the library's table of missing and unexpected weights: what matters of it is said here."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def model_commit(args) -> str | None:
    """The commit of `--model` on the hub; None for a local folder."""
    return resolved("model", args.model, args.model_revision, args.token)[1]


def source_of(args, name: str) -> dict:
    """What `from_pretrained` needs to find `name`: the commit on the hub, the token and the cache."""
    # A revision belongs to --model; another tokenizer's or configuration's repository has its own main branch.
    commit = resolved("model", name, args.model_revision if name == args.model else None, args.token)[1]
    source = {"revision": commit or "main", "token": args.token, "cache_dir": args.cache_dir}
    return source | {"trust_remote_code": args.trust_remote_code}


def count_parameters(model) -> dict[str, int]:
    """Total and trainable parameters, as results.json's `model.parameters` wants them."""
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def structure_table(model, title: str = "Structure of the model") -> dict:
    """For results.json's `tables`: sizes of the encoder as its configuration has them, and parameters."""
    config = getattr(model.config, "get_text_config", lambda: model.config)()
    names = {
        "architecture": type(model).__name__,
        "activation": next((getattr(config, n) for n in ("hidden_act", "activation") if hasattr(config, n)), None),
        "hidden size": getattr(config, "hidden_size", None),
        "feed-forward size": next(
            (getattr(config, n) for n in ("intermediate_size", "hidden_dim") if hasattr(config, n)), None
        ),
        "attention heads": getattr(config, "num_attention_heads", None),
        "layers": getattr(config, "num_hidden_layers", None),
        "vocabulary": getattr(config, "vocab_size", None),
        "positions": getattr(config, "max_position_embeddings", None),
        **{f"parameters, {name}": count for name, count in count_parameters(model).items()},
    }
    rows = [[name, f"{v:,}" if isinstance(v, int) else str(v)] for name, v in names.items() if v is not None]
    return {"title": title, "head": ["", ""], "rows": rows}


def frozen_modules(model) -> list:
    """The largest parts of a model without a trainable weight. Of one with adapters none: LoRA trains with dropout."""
    if hasattr(model, "peft_config"):
        return []

    def parts(module) -> list:
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            return [module]
        return [part for child in module.children() for part in parts(child)]

    return parts(model)


@contextlib.contextmanager
def evaluating(model) -> Iterator[None]:
    """Eval mode within; then each module is in the mode that it was in."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


@contextlib.contextmanager
def replaced(replacements: Iterable[tuple]) -> Iterator[None]:
    """Attributes (owner, name, value), such as a model's submodules, in the place of others within."""
    replacements = list(replacements)
    before = [(parent, name, getattr(parent, name)) for parent, name, _ in replacements]
    try:
        for replacement in replacements:
            setattr(*replacement)
        yield
    finally:
        for replacement in before:
            setattr(*replacement)


def weights_fingerprint(folder: str) -> str | None:
    """SHA-256 over the configuration and weights in a local folder; None for a hub id."""
    if not Path(folder).is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*")):
        if path.suffix in (".safetensors", ".bin") or path.name in ("config.json", "adapter_config.json"):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_whole(model, checkpoint: Path) -> None:
    """Loads weights that stock `Trainer` has loaded in part, where the saved names are not the model's own.

    Raises:
        UserError: the checkpoint does not hold all of the model.
    """
    from safetensors import safe_open
    from transformers import PreTrainedModel

    saved = checkpoint / "model.safetensors"
    if not saved.is_file() or not isinstance(model, PreTrainedModel):  # adapters and divided weights check themselves
        return
    own = model.state_dict()
    with safe_open(saved, framework="pt") as file:
        there = set(file.keys())
    stored = {own[name].data_ptr() for name in there & own.keys()}
    if all(name in there or tensor.data_ptr() in stored for name, tensor in own.items()):
        return
    loaded, report = type(model).from_pretrained(checkpoint, config=model.config, output_loading_info=True)
    if report["missing_keys"] or report["mismatched_keys"]:
        raise UserError(f"{checkpoint}: does not hold all weights of this model; choose an earlier checkpoint")
    model.load_state_dict(loaded.state_dict())
