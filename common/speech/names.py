"""What names of files say of their clips: by `--name_pattern`, or as corpora of emotions call theirs."""

import contextlib
import re

import pandas as pd

from common.errors import UserError
from common.labels import canonical
from common.speech.audio import AUDIO_ENDINGS
from common.speech.corpora import EMOTIONS, Reading, add_splits, mark, stem

# Columns that parts of names cannot be called: they would say something else.
OWN = ("path", "id", "name", "where", "reason", "problem", "start", "end", "digest", "seconds", "recording", "part")
# Name -> pattern of files' names (the group "male_" is empty for women), and codes of classes that `EMOTIONS` lacks.
CORPORA = {
    "shemo": (  # Mohamad Nezami et al. 2019, Persian
        r"(?P<speaker>(?P<gender>[MF])\d{2})(?P<label>[AFHNSW])(?P<utterance>\d{2,})",
        "A anger F fear H happiness N neutral S sadness W surprise",
    ),
    "emodb": (  # Burkhardt et al. 2005, German: W is Wut, A is Angst
        r"(?P<speaker>(?P<male_>03|10|11|12|15)|\d{2})(?P<sentence>[ab]\d{2})(?P<label>[WLEAFTN])[a-z]",
        "W anger L boredom E disgust A fear F happiness T sadness N neutral",
    ),
    "ravdess": (  # Livingstone and Russo 2018, English
        r"0[1-3]-(?P<channel>0[12])-(?P<label>0[1-8])-(?P<intensity>0[12])-(?P<sentence>0[12])-0[12]-"
        r"(?P<speaker>(?P<male_>\d[13579])|\d{2})",
        "01 neutral 02 calm 03 happiness 04 sadness 05 anger 06 fear 07 disgust 08 surprise",
    ),
    "cremad": (  # Cao et al. 2014, English
        r"(?P<speaker>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<label>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<intensity>LO|MD|HI|XX?)",
        "",
    ),
    "savee": (  # Haq and Jackson 2009, English: DC/a01.wav or DC_a01.wav
        r"(?:.*/)?(?P<speaker>(?P<male_>DC|JE|JK|KL))[/_](?P<label>sa|su|[adfhn])(?P<sentence>\d{2})",
        "a anger d disgust f fear h happiness n neutral sa sadness su surprise",
    ),
    "tess": (  # Pichora-Fuller and Dupuis 2020, English; some files of OAF say OA
        r"(?P<male_>)(?P<speaker>OA|YA)F?_(?P<word>\w+?)_(?P<label>angry|disgust|fear|happy|neutral|ps|sad)",
        "",
    ),
    "urdu": (  # Latif et al. 2018
        r"(?P<speaker>S(?P<gender>[MF])\d+)_F\d+_(?P<label>[AHNS])\d+",
        "A anger H happiness N neutral S sadness",
    ),
    # Busso et al. 2008, English; the classes stand in its evaluation files
    "iemocap": (r"(?P<session_>Ses\d{2})[FM]_(?:.*_)?(?P<gender>[FM])\d+", ""),
}


def name_pattern(text: str) -> str:
    """The regular expression of `--name_pattern`: {label}_{speaker}_{index}, or one with named groups already."""
    pattern = text if "(?P<" in text else re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+?)", re.escape(text))
    with contextlib.suppress(re.error):
        if re.compile(pattern).groupindex:
            return pattern
    how = "write it like {label}_{speaker}_{index}, or as a regular expression with groups like (?P<label>...)"
    raise UserError(f"--name_pattern {text}: is no pattern that names a part; {how}")


def said_by_names(frame: pd.DataFrame, pattern: str, codes: str) -> list[dict[str, str]]:
    """The pattern's groups in each name, with as many folders before it as the pattern has slashes; {}: no match."""
    labels, said = dict(zip(codes.split()[::2], codes.split()[1::2])), []
    folders = pattern.replace("[^/]", "").count("/")
    for path in frame["name"]:
        parts = path.replace("\\", "/").split("/")
        above = "".join(f"{part}/" for part in parts[-1 - folders : -1])
        match = re.fullmatch(pattern, above + stem(path)) or re.fullmatch(pattern, above + parts[-1])
        said.append(one := match.groupdict("") if match else {})
        if "session_" in one:  # of two people
            one["speaker"] = one.pop("session_") + one["gender"]
        if "male_" in one:
            one["gender"] = "male" if one.pop("male_") else "female"
        if "label" in one:
            one["label"] = labels.get(one["label"], one["label"])
    return said


def add_names(frame: pd.DataFrame, reading: Reading) -> None:
    """Adds what names of files say by `--name_pattern`, `--corpus`, or the corpora of emotions, if each matches one."""
    args, source = reading.args, frame.attrs["source"]
    if not len(frame):
        remedy = f"sound ends with one of {', '.join(AUDIO_ENDINGS)}; a data set of the hub is for --dataset"
        raise UserError(f"{source}: has no clip; {remedy}")
    if args.corpus and args.corpus not in CORPORA:
        raise UserError(f"--corpus {args.corpus}: choose one of {', '.join(CORPORA)}")
    flag, tried = f"--corpus {args.corpus}", CORPORA if reading.classes else {}
    if args.name_pattern:
        flag, tried = f"--name_pattern {args.name_pattern}", {"": (name_pattern(args.name_pattern), "")}
    elif args.corpus:
        tried = {args.corpus: CORPORA[args.corpus]}
    by_row = zip(*([(name, one) for one in said_by_names(frame, *corpus)] for name, corpus in tried.items()))
    found = [[(name, one) for name, one in row if one] for row in by_row]
    corpora = sorted({name for row in found for name, _ in row})
    if not (args.name_pattern or args.corpus or (corpora and all(len(row) == 1 for row in found))):
        return
    if not corpora:
        raise UserError(f"{source}: no name matches {flag}; the first is {stem(frame['name'].iloc[0])!r}")
    said = [row[0][1] if row else {} for row in found]
    if len(corpora) > 1:  # whose speakers may be called alike
        said = [one | {"speaker": f"{name} {one['speaker']}"} for ((name, one),) in found]
    table = pd.DataFrame(said, index=frame.index).fillna("").drop(columns=[*OWN], errors="ignore")
    if not args.name_pattern:
        frame.attrs["source"] = f"{source} ({', '.join(corpora)})"
        # Folders that are called by emotions say more, and so do a table's classes that are not codes of the corpus.
        given = {*frame.get("label", ())}
        codes = {code for name in corpora for code in CORPORA[name][1].split()}
        emotions = given and {canonical(label, EMOTIONS) for label in given} <= {*EMOTIONS}
        if emotions or ("numbered" in frame.attrs and not args.corpus and not given <= codes | {""}):
            table = table.drop(columns="label", errors="ignore")
    mark(frame, [not one for one in said], "name does not match", f"its name does not match {flag}")
    add_splits(frame, table.pop("split") if "split" in table else [])
    for column in table:
        if column in ("gender", "label") or column not in frame or not frame[column].fillna("").any():
            frame[column] = table[column]
    if "label" in table:
        frame.attrs |= {"numbered": False, "doubt": ""}
