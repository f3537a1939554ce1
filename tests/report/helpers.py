"""The schema, and a reader that checks a page's tags."""

import json
from html.parser import HTMLParser

from tests.helpers import ROOT

SCHEMA = json.loads((ROOT / "common" / "results.schema.json").read_text("utf-8"))
VOID = {"meta", "img", "br", "link", "input", "hr"}


def metric(value, low=None, high=None, examples=5000, unit="percent"):
    return {"value": value, "low": low, "high": high, "unit": unit, "examples": examples}


class Page(HTMLParser):
    """Checks that every tag is closed in order, and keeps the text, the tags and the attributes."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
