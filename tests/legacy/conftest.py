"""What many tests share: caches of their own, the real data beside the repository, tokenizers of every family."""

import functools
import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SESSION = Path(tempfile.mkdtemp(prefix="finetuning-tests-"))
ISOLATED = {"XDG_CACHE_HOME": str(SESSION / "cache"), "HF_HOME": str(SESSION / "huggingface"), "HF_HUB_OFFLINE": "1"}

# At once, not in a fixture: the libraries read these when they are imported, which the test modules do.
os.environ.update(ISOLATED)
os.environ.pop("TOKENIZERS_PARALLELISM", None)

ARCHITECTURES = ("bert-base-uncased", "distilbert-base-uncased", "roberta-base", "xlm-roberta-base")
TEXTS = [
    "Who founded the museum in Kassel, and when was it closed? It was founded by Anna Berg in 1921.",
    'The Normans (Norman: Nourmands) gave their name to Normandy, a region in France; they were "Norsemen".',
    "کتابخانهٔ ملی ایران در سال ۱۳۱۶ در تهران بنیان‌گذاری شد و بزرگ‌ترین کتابخانهٔ کشور است.",
    "چه کسی این موزه را ساخت؟ معمار آن در شهر اصفهان به دنیا آمد.",
    "Ångström's naïve café — déjà vu, 3.5 % of 1,024 m²; e-mail: a@b.org 🙂 👩‍👩‍👧 北京 東京.",
]


def pytest_unconfigure():
    """Removes this process's caches and tiny models."""
    shutil.rmtree(SESSION, ignore_errors=True)


@pytest.fixture(autouse=True)
def isolated_caches(monkeypatch):
    """No test reads or fills the caches of the user, reaches for the hub, or inherits another test's environment."""
    for name, value in ISOLATED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)


@pytest.fixture(scope="module")
def one_thread():
    """For torch: more would wait for each other on a busy machine, where what is computed is tiny."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """architecture -> folder of a tiny model with a tokenizer trained on `TEXTS`; made once a session each."""

    @functools.cache
    def make(architecture: str) -> Path:
        from common.legacy.tiny_models import tiny_model

        return Path(tiny_model(architecture, TEXTS * 3, tmp_path_factory.mktemp("tiny") / architecture, "none"))

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_folder):
    """architecture -> a freshly loaded tiny tokenizer, which a test may change."""

    def load(architecture: str, **settings):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(tiny_folder(architecture), **settings)

    return load


@pytest.fixture(scope="session")
def minilm(tmp_path_factory) -> Path:
    """The folder of a real pre-trained model, all-MiniLM-L6-v2 (a BERT of 6 layers)."""
    package = pytest.importorskip("all_minilm_l6_v2")
    return Path(package.extract_model(str(tmp_path_factory.mktemp("minilm"))))
