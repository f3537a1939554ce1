"""The built-in sound and the tiny encoders of the speech scripts."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from common.demo.speech import KEYWORDS, OTHER_WORDS, asr_demo, emotion_demo, keyword_demo
from common.demo.tiny_speech import TYPES, tiny_speech_model
from common.speech.audio import load_clip
from common.speech.corpora import EMOTIONS
from tests.helpers import message
from tests.speech.clips import labels_of, load, run

pytestmark = pytest.mark.usefixtures("one_thread")


def content_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def keywords(tmp_path_factory):
    return keyword_demo(tmp_path_factory.mktemp("keywords"))


def test_keywords_are_like_speech_commands(keywords):
    heard = run()
    splits = load(heard, data_dir=keywords["data_dir"])
    assert heard.notes == ["split as the data say"] and not heard.warnings and not splits.overlaps
    assert [facts["statistics"]["speakers"] for facts in splits.facts.values()] == [20, 6, 8]
    assert {*splits["train"].features["labels"].names} == {*KEYWORDS, *OTHER_WORDS, "_silence_"}
    assert all(row["seconds"] <= 1.0 for row in splits["train"] if not row["id"].startswith("_background_noise_"))


def test_a_linear_head_can_learn_the_keywords(keywords):
    """The filter bank in the encoder: which word it is stands in its mean features."""
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoFeatureExtractor, AutoModel

    splits = load(data_dir=keywords["data_dir"], drop_labels=["_silence_"], max_train_samples=200, max_eval_samples=72)
    model = AutoModel.from_pretrained(keywords["model"]).eval()
    extractor = AutoFeatureExtractor.from_pretrained(keywords["model"])

    def features(split):
        import torch

        found = []
        for row in split:
            inputs = extractor(load_clip(row), sampling_rate=16_000, return_tensors="pt")
            with torch.inference_mode():
                found.append(
                    model.feature_extractor(inputs["input_values"])[0].unfold(1, 8, 6).mean(2).T[:6].reshape(-1)
                )
        width = max(map(len, found))
        return np.stack([np.pad(one.numpy(), (0, width - len(one))) for one in found])

    head = LogisticRegression(max_iter=2_000).fit(features(splits["train"]), [*labels_of(splits["train"]).values()])
    accuracy = head.score(features(splits["validation"]), [*labels_of(splits["validation"]).values()])
    assert accuracy > 0.6  # of twelve words, so 0.08 by chance


def test_sentences_are_like_librispeech(tmp_path):
    made = asr_demo(tmp_path)
    splits = load(kind="text", data_dir=made["data_dir"])
    assert [len(split) for split in splits.values()] == [150, 40, 40] and not splits.overlaps
    texts = [text for split in splits.values() for text in split["text"][:]]
    assert len({*texts}) == 230 and len({letter for text in texts for letter in text} - {" "}) <= 10
    for row in splits["validation"].select(range(5)):  # the longer the text, the longer the clip
        assert 0.05 < row["seconds"] / len(row["text"]) < 0.2


def test_emotions_are_like_shemo_and_the_same_every_time(tmp_path):
    made = emotion_demo(tmp_path / "a")
    heard = run()
    options = {"classes": EMOTIONS, "validation_share": 0.2, "test_share": 0.2}
    splits = load(heard, data_dir=made["data_dir"], **options)
    assert not heard.warnings and splits.facts["train"]["source"].endswith("(shemo)")
    for facts in splits.facts.values():
        assert all(facts["label_counts"].values()) and len(facts["label_counts"]) == 6
    assert emotion_demo(tmp_path / "b") and content_of(tmp_path / "a") == content_of(tmp_path / "b")


@pytest.mark.parametrize("family", [*TYPES, "distilhubert", "wav2vec2-xls-r", "hubert-large"])
def test_tiny_encoders_of_every_family(family, tmp_path):
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForCTC

    state = torch.get_rng_state()
    folder = tiny_speech_model(f"somebody/{family}-base", tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    model = AutoModelForCTC.from_pretrained(folder, vocab_size=32).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    sound = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    with torch.inference_mode():
        logits = model(**extractor(sound, sampling_rate=16_000, return_tensors="pt")).logits
    assert logits.shape == (1, 49, 32) and logits.isfinite().all()


def test_families_by_name(tmp_path):
    from transformers import AutoConfig

    kinds = {"facebook/wav2vec2-large-xlsr-53": True, "ntu-spml/distilhubert": False, "facebook/hubert_base": False}
    for name, large in kinds.items():
        config = AutoConfig.from_pretrained(tiny_speech_model(name, tmp_path))
        assert config.do_stable_layer_norm == large and config.model_type in name
        assert getattr(config, "feat_proj_layer_norm", True) == ("distil" not in name)
    assert "no tiny twin of the speech model 'bert-base'" in message(tiny_speech_model, "bert-base", tmp_path)
