"""Pages say what the code says: generated parts, errors, links, no paths of a machine."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from hyperpq import errors
from hyperpq.cli.main import COMMANDS, MODULES, cli, exit_code

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", ".github/**/*.md")
    for page in ROOT.glob(pattern)
)


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["reference/cli.md", "method.md"])
def test_generated_pages_are_up_to_date(page):
    path = ROOT / "docs" / page
    assert path.read_text("utf-8") == generator().pages()[path], "run: python docs/generate.py"


def test_recipes_stand_in_the_method():
    """The marks that the generator fills are there."""
    text = (ROOT / "docs/method.md").read_text("utf-8")
    for table in (generator().preset_table(), generator().settings_table()):
        assert table.count("\n") > 10
        assert table in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    command = cli.get_command(click.Context(cli), name)
    assert len(command.help or "") > 20
    page = (ROOT / "docs/reference/cli.md").read_text("utf-8")
    section = page.partition(f"\n## hyperpq {name}\n")[2].partition("\n## ")[0]
    assert section
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"
            assert parameter.opts[-1] in section
    assert " ".join(command.collect_usage_pieces(click.Context(command))) in section


def test_every_file_of_the_command_line_is_a_command():
    helpers = {"__init__", "main", "formats", "interrupts", "options", "output", "streams", "text"}
    helpers |= {"conditions", "index_kind", "looks", "query_images", "query_vectors", "ray_cluster"}
    helpers |= {"index_option", "learning_options"}
    assert {file.stem for file in (ROOT / "cli").glob("*.py")} - helpers == {
        MODULES.get(name, name) for name in COMMANDS
    }


def test_every_error_is_in_the_table():
    text = (ROOT / "docs/reference/errors.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d) \| (.+) \|$", text, flags=re.MULTILINE)
    classes = {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.HyperPQError)
    }
    assert [row[0] for row in rows] == sorted(classes, key=list(vars(errors)).index)
    for name, also, code, when in rows:
        kind = classes[name]
        assert also in [base.__name__ for base in kind.__mro__[1:]]
        assert int(code) == exit_code(kind)
        assert len(when) > 10


def test_every_package_is_in_the_table_of_the_architecture():
    """In the order of the layers, with one line each."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    layers = re.search(
        r"^layers = \[\n(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    names = re.findall(r"hyperpq\.(\w+)", layers.group(1))
    section = text.partition("\n## Packages\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", section, flags=re.MULTILINE)
    assert [row[0] for row in rows] == names
    for name, what, files in rows:
        assert len(what) > 10
        single = (ROOT / f"hyperpq/{name}.py").exists()
        assert single == (files == "one module")
        folder = ROOT / name if (ROOT / name).exists() else ROOT / "hyperpq" / name
        # Lower-case names are modules; others are what a module defines.
        for file in re.findall(r"`([a-z_0-9/]+)`", files):
            if file != "fidelity":
                assert any((folder / f"{file}{end}").exists() for end in (".py", "")), file


def test_every_module_is_in_the_table_of_the_architecture():
    """With its package; commands of the command line are in the reference instead."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    section = text.partition("\n## Packages\n")[2].partition("\n## ")[0]
    commands = {f"cli/{MODULES.get(name, name)}" for name in COMMANDS}
    missing = set()
    for name, files in re.findall(r"^\| `(\w+)` \| .+? \| (.+) \|$", section, flags=re.MULTILINE):
        folder = ROOT / name if (ROOT / name).is_dir() else ROOT / "hyperpq" / name
        modules = {file.relative_to(folder).with_suffix("") for file in folder.rglob("*.py")}
        names = set(re.findall(r"`([\w/]+)`", files))
        missing |= {
            f"{name}/{module}"
            for module in modules
            if module.name != "__init__" and str(module) not in names
        }
    assert sorted(missing - commands) == []


def test_functions_of_the_architecture_exist():
    """Each ``path/file.py``: `function` of the walks is defined in that file."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    steps = re.findall(r"^\d+\. `([\w/]+\.py)`: `([\w.]+)`", text, flags=re.MULTILINE)
    assert len(steps) > 15
    for file, name in steps:
        [path] = [p for p in (ROOT / "hyperpq" / file, ROOT / file) if p.exists()]
        source = path.read_text("utf-8")
        for part in name.split("."):
            assert re.search(rf"^ *(def|class) {part}\b", source, re.MULTILINE), f"{file}: {name}"


def slugs(text: str) -> set[str]:
    """Anchors that GitHub gives to headings."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_resolve(page):
    file = ROOT / page
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        other = (file.parent / path).resolve() if path else file
        assert other.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in slugs(other.read_text("utf-8")), f"{page} links to {target}"


def defaults() -> dict[str, list[str]]:
    """Sentences of pages that name a default or a limit, with the values of the code."""
    from hyperpq import HiHPQIndex
    from hyperpq.codec.sample import SAMPLE_SIZE
    from hyperpq.datasets import decode
    from hyperpq.filters.where import MAX_LENGTH
    from hyperpq.images import decoding_budget, updater
    from hyperpq.images.build.options import BuildOptions
    from hyperpq.images.relearning import WARNING_POLICY
    from hyperpq.index import calibration
    from hyperpq.index.directory import LOCK_TIMEOUT
    from hyperpq.index.learning import TRAIN_SIZE
    from hyperpq.training.recipe import FULL_EPOCHS_ROWS, MAX_EPOCHS, MIN_EPOCHS, Recipe
    from hyperpq.training.split import MIN_CHECKED_IMAGES, MIN_TRAINING_IMAGES

    build, index = BuildOptions(), inspect.signature(HiHPQIndex).parameters
    images, batch = MIN_CHECKED_IMAGES, updater.SEGMENT_SIZE
    growth = WARNING_POLICY.limits[0].growth
    least, per_core = decoding_budget._LEAST >> 30, decoding_budget._PER_CORE >> 20
    assert (build.train_size, build.backbone) == (TRAIN_SIZE, "lite0")
    return {
        "README.md": [
            f"a code of {index['M'].default} bytes",
            f"the default is {build.bits}. One training",
            f"learning needs {images} or more",
        ],
        "docs/start/first-steps.md": [
            f"The code of an image takes {build.bits // 8} bytes.",
            f"Learning needs {images} images.",
        ],
        "docs/tutorials/images.md": [
            f"Learning needs at least {images} images",
            f"at most {build.train_size:,} images (`--train-size`)",
            f"and two augmented views of at most {build.view_size:,} of them",
            f"commits of {batch:,} images",
        ],
        "docs/tutorials/vectors.md": [f"the default is `M={index['M'].default}`"],
        "docs/how-to/code-length.md": [
            f"A code has `M` bytes; the default is {index['M'].default}.",
            f"| {build.bits} (the default) |",
            f"| `{build.objective}` (the default) |",
        ],
        "docs/how-to/encoders.md": [f"| `{build.backbone}` (the default)"],
        "docs/how-to/filters.md": [f"at most {MAX_LENGTH:,} characters"],
        "docs/how-to/services.md": [
            f"writing for more than {LOCK_TIMEOUT:g} seconds",
            f"comes to {images} images",
            f"learned from {TRAIN_SIZE / growth:,.0f} images or more",
        ],
        "docs/how-to/threads-and-forks.md": [
            f"Images of more than {build.max_megapixels:g} megapixels are skipped",
            f"{least} GiB, or {per_core} MiB for each core if that is more",
            f"An image of more than {decode._LARGE // 10**6} megapixels is reduced",
        ],
        "docs/faq.md": [
            f"Learning begins at {images} images",
            f"features, `--features {build.features}` (default)",
        ],
        "docs/method.md": [
            f"up to {SAMPLE_SIZE:,} tangent vectors",
            f"it is {MAX_EPOCHS} up to {FULL_EPOCHS_ROWS:,} features, then "
            f"$`{MAX_EPOCHS * FULL_EPOCHS_ROWS // 1000}{{,}}000 / n`$, and never less than "
            f"{MIN_EPOCHS}",
            f"With fewer than {images} images in all",
            f"with fewer than {MIN_TRAINING_IMAGES} images",
            rf"\texttt{{smoothing\_weight}} = {Recipe().codebooks.smoothing_weight}",
        ],
        "docs/method/similarity.md": [
            f"a sample of {calibration._SAMPLE} rows",
            f"fewer than {calibration.MIN_ROWS} images",
        ],
    }


def test_defaults_of_pages_are_those_of_the_code():
    missing = []
    for page, sentences in defaults().items():
        text = " ".join((ROOT / page).read_text("utf-8").split())
        missing += [(page, sentence) for sentence in sentences if sentence not in text]
    assert missing == []


def repository_files() -> list[Path]:
    """Text files that belong to the repository, not what tools leave in it."""
    kinds = ("py", "pyi", "md", "cfg", "toml", "txt", "yaml", "yml", "svg", "css", "h", "cpp")
    files = [p for p in ROOT.iterdir() if p.is_file()]
    for folder in ("hyperpq", "cli", "datasets", "tests", "docs", "benchmarks", ".github"):
        files += [p for kind in kinds for p in (ROOT / folder).rglob(f"*.{kind}")]
    return files + [p for p in (ROOT / ".ci").glob("*") if p.is_file()]


def test_no_file_names_a_path_of_a_machine():
    path = re.compile(r"(?<![\w./~\-])/(?:home|root|Users|work|workspace|mnt|tmp/\w+)/[\w.\-]+")
    found = {
        f"{file.relative_to(ROOT)}: {match}"
        for file in repository_files()
        for match in path.findall(file.read_text("utf-8", "replace"))
    }
    assert not found
