"""Wrong input gives one line that names it and the right exit code, and changes nothing."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from hyperpq import HiHPQIndex, ImageIndex
from hyperpq.cli import main
from hyperpq.errors import HyperPQError
from hyperpq.images.build import build_index, update_index
from hyperpq.utils.devices import usable_cores

# Name: (arguments, exit code, the line on stderr with * for anything). `I` stands for the index of
# the fixture, `P` for an image of it; other names lie in the folder of `wrong`. After "usage:", the
# line ends with the command whose help it names.
COMMANDS = {
    "no-such-command": ("biuld", 2, "usage: no such command 'biuld'; did you mean 'build'?"),
    "no-such-option": ("query P --top 3", 2, "usage: no such option '--top'*"),
    "build-without-images": (
        "build",
        2,
        "usage: no folder of images was given; expected at least one DIR.",
    ),
    "build-no-folder": (
        "build --images gone",
        1,
        "{here}/gone does not exist; give an existing folder of images.",
    ),
    "build-empty-path": (
        "build --images {empty}",
        2,
        "usage: invalid value for '--images': the path is empty; expected a path.",
    ),
    "build-empty-folder": (
        "build --images empty",
        1,
        "no image was found in *empty; expected JPEG*",
    ),
    "build-only-bad-images": (
        "build --images bad",
        1,
        "none of 2 images can be read, such as {here}/bad/*.jpg (*); expected images to train on.",
    ),
    "build-bits-12": (
        "build --images P --bits 12",
        2,
        "bits is 12; expected a multiple of 8 from 8 to 512.",
    ),
    "build-bits-0": (
        "build --images P --bits 0",
        2,
        "bits is 0; expected a multiple of 8 from 8 to 512.",
    ),
    "build-bits-word": (
        "build --images P --bits many",
        2,
        "usage: invalid value for '--bits': 'many' is not a valid integer.",
    ),
    "build-seed-negative": (
        "build --images P --seed -1",
        2,
        "usage: invalid value for '--seed': -1 is not in the range x>=0.",
    ),
    "build-seed-huge": (
        "build --images P --seed 99999999999999999999",
        2,
        "seed is 99999999999999999999; expected an integer of at most *",
    ),
    "build-epochs-negative": (
        "build --images P --epochs -1",
        2,
        "usage: invalid value for '--epochs': -1 is not in the range x>=0.",
    ),
    "build-train-size-0": (
        "build --images P --train-size 0",
        2,
        "usage: invalid value for '--train-size': 0 is not in the range x>=1.",
    ),
    "build-megapixels-nan": (
        "build --images P --max-megapixels nan",
        2,
        "max_megapixels is NaN; expected a number.",
    ),
    "build-recipe": (
        "build --images P --recipe best",
        2,
        "usage: invalid value for '--recipe': 'best' is not one of 'default', 'paper', "
        "'paper-finetuned'.",
    ),
    "build-end-to-end": (
        "build P --recipe paper-finetuned",
        2,
        "finetune is not given; expected it, without a limit in minutes, as the recipe "
        "'paper-finetuned' trains network and codec together for a number of epochs; change it, or "
        "choose the recipe 'paper'.",
    ),
    "build-pattern": (
        "build --images P --exclude !",
        2,
        "exclude has '!', *; expected patterns in the syntax of .gitignore.",
    ),
    "build-finetune-folder": (
        "build --finetune P",
        2,
        "usage: invalid value for '--finetune': --finetune is '*'; expected minutes above 0, such "
        "as --finetune=5.",
    ),
    "build-finetune-0": (
        "build P --finetune 0",
        2,
        "usage: invalid value for '--finetune': --finetune is '0'; expected minutes above 0, such "
        "as --finetune=5.",
    ),
    "build-finetune-few": (
        "build P --finetune",
        2,
        "there is 1 image to fine-tune the network on; expected 160 or more; leave out "
        "fine-tuning.",
    ),
    "build-finetune-codec": (
        "build P --finetune 5 --codec I",
        2,
        "--codec is given, so nothing is trained and --finetune would have no effect; leave out "
        "--finetune, or train a codec by leaving out --codec.",
    ),
    "build-finetune-later": (
        "build P --finetune 5 --index I",
        2,
        "finetune is given; {index} was built without fine-tuning; leave the option out, fine-tune "
        "the index with hyperpq finetune, or build anew with --overwrite.",
    ),
    "finetune-no-index": ("finetune gone", 1, "*gone: there is no index here*"),
    "finetune-vectors": (
        "finetune --index vectors",
        2,
        "vectors is an index of vectors, which has no network to fine-tune.",
    ),
    "finetune-two": (
        "finetune vectors --index vectors",
        2,
        "usage: --index and INDEX exclude each other; choose one.",
    ),
    "finetune-minutes": (
        "finetune vectors --minutes -1",
        2,
        "usage: invalid value for '--minutes': --minutes is '-1'; expected minutes above 0, such "
        "as --minutes=5.",
    ),
    "finetune-resume-restart": (
        "finetune vectors --resume --restart",
        2,
        "usage: --resume and --restart exclude each other; choose one.",
    ),
    "finetune-few": (
        "finetune I",
        2,
        "there are 24 images to fine-tune the network on; expected 160 or more; leave out "
        "fine-tuning.",
    ),
    "build-backbone-name": (
        "build --images P --backbone lite9",
        1,
        "backbone is 'lite9'; expected one of lite0, *; did you mean *?",
    ),
    "build-backbone-file": (
        "build --images P --backbone onnx:gone.onnx",
        1,
        "backbone 'onnx:gone.onnx' cannot be loaded: gone.onnx cannot be read (No such file or "
        "directory); *",
    ),
    "build-backbone-no-onnx": (
        "build --images P --backbone onnx:text.txt",
        1,
        "backbone 'onnx:text.txt' cannot be loaded by ONNX Runtime (*); give a valid ONNX file.",
    ),
    "build-backbone-no-torchscript": (
        "build --images P --backbone torchscript:text.txt",
        1,
        "text.txt is not a TorchScript file (*); write one with torch.jit.trace*",
    ),
    "build-device": (
        "build --images P --device gpu",
        2,
        "device is 'gpu'; expected 'auto', 'cpu', 'cuda' or 'cuda:N'.",
    ),
    "build-index-is-a-file": (
        "build --images P --index text.txt",
        1,
        "{here}/text.txt: this is a file, and an index is a folder; choose another place.",
    ),
    "build-index-below-a-file": (
        "build --images P --index text.txt/index",
        1,
        "{here}/text.txt/index: cannot look into: Not a directory.",
    ),
    "build-index-is-another-folder": (
        "build --images P --index bad",
        1,
        "{here}/bad: the folder is not empty (text.jpg); choose another place or remove it first.",
    ),
    "build-index-in-proc": (
        "build --images P --index /proc/index",
        1,
        "/proc/index.building: cannot create: *",
    ),
    "build-other-bits": (
        "build --images P --index I --bits 32",
        2,
        "bits is 32; {index} was built with 64; leave the option out, or build anew with "
        "--overwrite.",
    ),
    "build-other-backbone": (
        "build --images P --index I --backbone lite1",
        1,
        "backbone is 'lite1'; expected 'lite0', with which the index was built; use that one, or "
        "build a new index.",
    ),
    "build-nothing-there": ("build --images empty --index I", 1, "no image was found in *empty; *"),
    "query-without-image": ("query", 2, "usage: missing argument 'IMG|FILE...'."),
    "query-no-index": (
        "query P --index gone",
        1,
        "{here}/gone: there is no index here (no such folder); make one with `hyperpq build`, or "
        "check the path.",
    ),
    "query-index-is-another-folder": (
        "query P --index bad",
        1,
        "{here}/bad: there is no index here (the folder has no manifest.json); make one with *",
    ),
    "query-damaged-index": (
        "query P --index damaged",
        1,
        "{here}/damaged/manifest.json: *",
    ),
    "query-index-of-vectors": (
        "query P --index vectors",
        2,
        "vectors is an index of vectors, and * is no file of vectors; expected files such as "
        "vectors.npy, or an index of images (--index).",
    ),
    "encode-index-of-vectors": (
        "encode P -o codes.npy --index vectors",
        2,
        "vectors is an index of vectors, and * is no file of vectors; expected files such as *",
    ),
    "add-index-of-vectors": (
        "add text.txt --index vectors",
        2,
        "vectors is an index of vectors, and text.txt is no file of vectors; expected files such *",
    ),
    "build-index-of-vectors": (
        "build bad --index vectors",
        2,
        "vectors is an index of vectors; name another --index for the images.",
    ),
    "update-index-of-vectors": (
        "update --index vectors",
        2,
        "vectors is an index of vectors, which has no folders to update; `hyperpq add FILE` adds "
        "vectors to it.",
    ),
    "forget-index-of-vectors": (
        "forget --missing --index vectors",
        2,
        "vectors is an index of vectors, which have no paths; remove vectors by a condition, as "
        "with `hyperpq remove --where 'id in (3, 7)'`.",
    ),
    "remove-index-of-vectors": (
        "remove bad --index vectors",
        2,
        "vectors is an index of vectors, which have no paths; remove vectors by a condition, *",
    ),
    "ls-index-of-vectors": (
        "ls bad --index vectors",
        2,
        "vectors is an index of vectors, which have no paths; choose by a condition with --where "
        "instead of DIR.",
    ),
    "add-index-of-images": (
        "add eight.npy --index I",
        2,
        "{index} is an index of images, and eight.npy is a file of vectors; expected an index of "
        "vectors (--index).",
    ),
    "import-index-of-images": (
        "import eight.npy --index I",
        2,
        "{index} is an index of images, and eight.npy is a file of vectors; expected an index of *",
    ),
    "query-vectors-in-index-of-images": (
        "query eight.npy --index I",
        2,
        "eight.npy has width 8; expected 1280, that of the features of lite0 of the index of "
        "images {index}.",
    ),
    "add-no-image": (
        "add text.txt --index I",
        2,
        "text.txt is not an image; expected folders of images, or images.",
    ),
    "build-vectors": (
        "build eight.npy",
        2,
        "eight.npy is a file of vectors; `hyperpq import` makes and fills an index of vectors.",
    ),
    "import-folder": (
        "import bad",
        2,
        "bad is a folder; expected files of vectors (.npy, *); `hyperpq build` makes an index of a "
        "folder of images.",
    ),
    "ls-unquoted": (
        "ls --index vectors --where folder == owl",
        2,
        "usage: --where is 'folder', which is no condition; a shell separates words at spaces, so "
        "write the whole condition in quotes, as in --where \"folder == 'owl'\".",
    ),
    "query-unquoted": (
        "query --where id < 10 eight.npy --index vectors",
        2,
        "usage: --where is 'id', which is no condition; *, as in --where \"id < 10\".",
    ),
    "remove-unquoted": (
        "remove --where not folder == owl",
        2,
        "usage: --where is 'not', which is no condition; *, as in --where \"folder == 'cats'\".",
    ),
    "query-redirected": (
        # A shell takes `> 640` for the name of a file to write.
        "query P --where width --index I",
        2,
        "usage: --where is 'width', which is no condition; a shell separates words at spaces, *",
    ),
    "ls-text-without-quotes": (
        "ls --index I --where folder==owl",
        2,
        "where names 'owl', which is no column of the index; expected one of *; text is written in "
        "quotes within the condition, as in \"folder == 'owl'\".",
    ),
    "query-empty-name": (
        "query {empty} --index I",
        2,
        "'' names no image; expected at least one.",
    ),
    "query-empty-folder": (
        "query empty --index I",
        2,
        "empty names no image; expected at least one.",
    ),
    "query-no-list": (
        "query @gone.txt --index I",
        2,
        "gone.txt cannot be read (No such file or directory); expected a file with the name of one "
        "image per line.",
    ),
    "query-image-like-a-list": (
        "query @at.jpg --index I",
        2,
        "@at.jpg is the list at.jpg, which does not exist; the image of that name is ./@at.jpg.",
    ),
    "query-image-like-an-option": (
        "query -x.jpg --index I",
        2,
        "usage: no such option '-x'; the file of that name is ./-x.jpg.",
    ),
    "query-empty-stdin": ("query - --index I", 2, "- names no image; expected at least one."),
    "query-k-0": (
        "query P -k 0",
        2,
        "usage: invalid value for '-k' / '-n': 0 is not in the range x>=1.",
    ),
    "query-k-huge": (
        "query P --index I -k 99999999999999999999",
        2,
        "k is 99999999999999999999; expected an integer of at most *",
    ),
    "query-format": (
        "query P --format xml",
        2,
        "usage: invalid value for '--format': 'xml' is not one of *",
    ),
    "query-threads-0": (
        "query P --threads 0",
        2,
        "usage: invalid value for '--threads': 0 is not in the range x>=1.",
    ),
    "query-missing-image": ("query gone.jpg --index I", 1, "hyperpq: gone.jpg: no such file"),
    "add-no-index": ("add bad --index gone", 1, "{here}/gone: there is no index here *"),
    "add-no-folder": (
        "add gone --index I",
        1,
        "{here}/gone does not exist; give an existing folder of images.",
    ),
    "add-no-vectors": (
        "add gone.npy --index vectors",
        2,
        "gone.npy cannot be read (No such file or directory); give an existing file.",
    ),
    "add-other-width": (
        "add wide.npy --index vectors",
        2,
        "wide.npy has width 9; expected 8, that of the vectors of the index {here}/vectors.",
    ),
    "train-text": (
        "train text.txt",
        2,
        "text.txt has no ending of a file of vectors; expected one of .npy, *",
    ),
    "train-words": ("train words.npy", 2, "words.npy has dtype <U5; expected numbers *"),
    "train-cube": ("train cube.npy", 2, "cube.npy holds (2, 2, 2); expected one array of *"),
    "train-nan": (
        "train nan.npy",
        2,
        "nan.npy has NaN, infinite or too large values, first in row 1; remove or replace those "
        "rows.",
    ),
    "train-no-rows": (
        "train none.npy",
        2,
        "none.npy has no vectors; expected vectors to train on.",
    ),
    "train-index-taken": (
        "train nan.npy --index vectors",
        1,
        "{here}/vectors: the folder is already an index; choose another place or remove it first.",
    ),
    "train-into-another-folder": (
        "train nan.npy --index bad",
        1,
        "{here}/bad: the folder is not empty (text.jpg); choose another place or remove it first.",
    ),
    "train-into-a-file": (
        "train nan.npy --index text.txt",
        1,
        "{here}/text.txt: this is a file, and an index is a folder; choose another place.",
    ),
    "search-binary": (
        "search eight.npy --index vectors --format npz",
        2,
        "usage: the format npz is not text; name a file with --out.",
    ),
    "search-ending": (
        "search eight.npy --index vectors -o out.txt",
        2,
        "usage: out.txt has none of the endings .npz, *; choose a format with --format.",
    ),
    "search-width": (
        "search wide.npy --index vectors",
        2,
        "wide.npy has width 9; expected 8, that of the vectors of *",
    ),
    "search-datasets": (
        "search two.h5 --index vectors",
        2,
        "two.h5 has 2 datasets of two dimensions ('a', 'b'); choose one with dataset=NAME "
        "(--dataset NAME).",
    ),
    "encode-dataset-of-images": (
        "encode P -o codes.npy --index I --dataset a",
        2,
        "usage: --dataset is for files of vectors; images were given.",
    ),
    "train-views": (
        "train wide.npy --views cube.npy",
        2,
        "views have shape (2, 2, 2); expected (V, 20, 9)*",
    ),
    "encode-out-ending": (
        "encode P -o codes.csv --index I",
        2,
        "usage: codes.csv has another ending than .npy, the format of the codes.",
    ),
    "encode-out-folder": (
        "encode P -o bad --index I",
        2,
        "bad is a folder; expected the name of a file to write.",
    ),
    "encode-out-nowhere": (
        "encode P -o gone/codes.npy --index I",
        2,
        "gone/codes.npy cannot be written, as there is no folder gone; create it first.",
    ),
    "info-damaged-index": ("info --index damaged", 1, "{here}/damaged/manifest.json: *"),
    "verify-no-index": ("verify --index gone", 1, "gone: there is no index here *"),
    "completion-shell": ("completion tcsh", 2, "usage: invalid value for *: 'tcsh' is not one of*"),
    "draw-among-files": (
        "draw bad",
        2,
        "bad has other files, such as text.jpg; expected a new or empty folder for drawn images.",
    ),
    "draw-into-a-file": ("draw text.txt", 1, "text.txt cannot be written (*); give a folder *"),
}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory, place):
    """A folder with files that are not valid input."""
    here = tmp_path_factory.mktemp("wrong")
    (here / "text.txt").write_text("nothing of use")
    (here / "@at.jpg").touch()
    (here / "-x.jpg").touch()
    (here / "empty").mkdir()
    (here / "bad").mkdir()
    (here / "bad/text.jpg").write_text("no image")
    (here / "bad/void.jpg").write_bytes(b"")
    (here / "damaged").mkdir()
    manifest = (place / "hyperpq-index/manifest.json").read_bytes()
    (here / "damaged/manifest.json").write_bytes(manifest[: len(manifest) // 2])
    rng = np.random.default_rng(0)
    index = HiHPQIndex(8, 2, device="cpu")
    index.train(rng.normal(size=(20, 8)), epochs=0)
    index.save(here / "vectors")
    np.save(here / "eight.npy", rng.normal(size=(20, 8)))
    np.save(here / "wide.npy", rng.normal(size=(20, 9)))
    np.save(here / "cube.npy", np.zeros((2, 2, 2)))
    np.save(here / "words.npy", np.array([["a", "words"]]))
    np.save(here / "nan.npy", [[0.0, 1.0], [np.nan, 0.0]])
    np.save(here / "none.npy", np.empty((0, 4)))
    with h5py.File(here / "two.h5", "w") as file:
        file["a"] = file["b"] = np.zeros((2, 8))
    return here


def state(*folders):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for folder in folders
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


@pytest.fixture(scope="module")
def outcomes(request, hyperpq, wrong, place, photos):
    """Results of the commands of the selected tests, run in parallel; no file may change."""
    words = {"I": place / "hyperpq-index", "P": photos[0], "{empty}": ""}
    items = [i for i in request.session.items if i.originalname == "test_command"]
    chosen = [item.callspec.params["name"] for item in items if item.module is request.module]

    def run(name):
        args = [words.get(word, word) for word in COMMANDS[name][0].split(" ")]
        # Each has its own index, as two builds of one index exclude each other.
        return hyperpq(*args, cwd=wrong, env={"HYPERPQ_INDEX": f"index-{name}"})

    before = state(wrong, place)
    with ThreadPoolExecutor(usable_cores()) as pool:
        done = dict(zip(chosen, pool.map(run, chosen), strict=True))
    assert state(wrong, place) == before
    return done


@pytest.mark.parametrize("name", COMMANDS)
def test_command(outcomes, wrong, place, name):
    done, (_, code, expected) = outcomes[name], COMMANDS[name]
    (line,) = done.stderr.decode().splitlines()
    if expected.startswith("usage: "):
        command, known = COMMANDS[name][0].partition(" ")[0], {*main.COMMANDS, *main.ALIASES}
        program = f"hyperpq {command}" if command in known else "hyperpq"
        expected = f"{expected.removeprefix('usage: ')} See `{program} --help`."
    if not expected.startswith("hyperpq: "):
        expected = f"hyperpq: error: {expected}"
    expected = expected.format(here=wrong, index=place / "hyperpq-index", empty="")
    assert re.fullmatch(re.escape(expected).replace(r"\*", ".*"), line), line
    assert done.returncode == code
    assert done.stdout == b""


def built(photos, tmp_path, **options):
    return build_index(photos[:1], tmp_path / "index", **{"epochs": 0, **options})


LIBRARY = {
    "build-no-root": (
        lambda i, p, t: build_index([], t / "x"),
        "roots has no path; expected at least one folder of images.",
    ),
    "build-bits": (
        lambda i, p, t: built(p, t, bits=8.5),
        "bits is 8.5; expected a multiple of 8 *",
    ),
    "build-seed": (lambda i, p, t: built(p, t, seed="a"), "seed is 'a'; expected an integer *"),
    "build-epochs": (lambda i, p, t: built(p, t, epochs=-1), "epochs is -1; expected *"),
    "build-train-size": (lambda i, p, t: built(p, t, train_size=0), "train_size is 0; expected *"),
    "build-workers": (lambda i, p, t: built(p, t, workers=-1), "workers is -1; expected *"),
    "build-metric": (
        lambda i, p, t: built(p, t, metric="l2"),
        "metric is 'l2' with the objective 'semantic'; expected 'l1', 'geodesic' or 'chord'; *",
    ),
    "build-recipe": (lambda i, p, t: built(p, t, recipe="best"), "recipe is 'best'; expected *"),
    "build-backbone": (
        lambda i, p, t: built(p, t, backbone=""),
        "backbone is ''; expected one of *",
    ),
    "update-no-index": (
        lambda i, p, t: update_index(p, t / "x"),
        "{t}/x: there is no index here *",
    ),
    "update-other-bits": (
        lambda i, p, t: update_index(p, i.index.path, bits=8),
        "bits is 8; * was built with 64; *",
    ),
    "open-no-index": (lambda i, p, t: ImageIndex.open(t), "{t}: there is no index here *"),
    "open-device": (
        lambda i, p, t: ImageIndex.open(i.index.path, device=3),
        "device is 3; expected *",
    ),
    "query-k": (lambda i, p, t: i.query(p, 2.5), "k is 2.5; expected an integer of at least 1."),
    "query-threads": (lambda i, p, t: i.query(p, threads=0), "threads is 0; expected *"),
    "query-workers": (lambda i, p, t: i.query(p, workers="two"), "workers is 'two'; expected *"),
    "search-width": (
        lambda i, p, t: i.index.search(np.ones((1, 3)), 1),
        "x has width 3; expected 1280.",
    ),
    "reconstruct-id": (
        lambda i, p, t: i.index.reconstruct(1000000),
        "id is 1000000; the index has no vector with it; expected ids of the index.",
    ),
    "train-again": (
        lambda i, p, t: i.index.train(np.ones((20, 1280))),
        "the index has 24 vectors coded by its codec; expected a new one; call retrain().",
    ),
    "save-taken": (
        lambda i, p, t: (t / "file").write_text("x") and i.index.save(t),
        "{t}: the folder is not empty (file); *",
    ),
}


@pytest.fixture(scope="module")
def image_index(place):
    return ImageIndex.open(place / "hyperpq-index", device="cpu")


@pytest.mark.parametrize("name", LIBRARY)
def test_library(image_index, photos, tmp_path, name):
    call, expected = LIBRARY[name]
    with pytest.raises(HyperPQError) as caught:
        call(image_index, photos, tmp_path)
    pattern = re.escape(expected.format(t=tmp_path)).replace(r"\*", ".*")
    assert re.fullmatch(pattern, str(caught.value)), str(caught.value)
    # A failed call leaves nothing that would make the next call fail.
    assert [path.name for path in tmp_path.iterdir()] in ([], ["file"])


def test_a_single_path_is_not_taken_for_many(image_index, photos):
    """A string is a sequence too, but its letters are no paths."""
    (answer,) = image_index.query(str(photos[0]), 1)
    assert answer.results[0].path == str(photos[0])
