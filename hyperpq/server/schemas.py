"""JSON that the server takes and gives, as pydantic models: the source of its OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, Json, StrictInt

from hyperpq.filters.where import MAX_LENGTH

LARGEST_ID = 2**63 - 1
Id = Annotated[int, Field(ge=0, le=LARGEST_ID)]
MAX_PARTS = 10
"""Images of one query, at most."""
KINDS = {"id": "search by id", "parts": "search by parts", "vector": "search by vector"}
"""Names of searches by JSON, by the field that tells them apart."""
Weight = Annotated[
    FiniteFloat,
    Field(
        ge=-1000,
        le=1000,
        description="Weight of the part, below 0 for what results are to be less like; -0.25 is "
        "enough beside weights that add up to 1. One weight at least is above 0.",
    ),
]


class Options(BaseModel):
    """What the results of a search are; the fields of a form are the same."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[int, Field(ge=1, description="Number of results.")] = 10
    where: Annotated[
        str | None,
        Field(
            max_length=MAX_LENGTH,
            description="A condition that results fulfil, such as `folder == 'cats'`.",
        ),
    ] = None
    max_distance: Annotated[
        FiniteFloat | None, Field(description="Largest distance of a result; for images.")
    ] = None
    min_similarity: Annotated[
        FiniteFloat | None,
        Field(ge=0, le=100, description="Smallest similarity of a result; for images."),
    ] = None
    existing: Annotated[
        bool, Field(description="Whether to leave out images whose files are gone.")
    ] = False
    refine: Annotated[
        bool | None,
        Field(
            description="Whether to rank the best codes again by kept features; by default images "
            "are ranked again where the index can do that, and vectors are not."
        ),
    ] = None
    nprobe: Annotated[
        int | None,
        Field(
            ge=1,
            le=LARGEST_ID,
            description="Number of cells that are searched, of an index that has cells: faster, "
            "and approximate. By default all are, unless the server has a recall of its own.",
        ),
    ] = None
    recall: Annotated[
        FiniteFloat | None,
        Field(
            gt=0,
            le=1,
            description="The share of the exact results that is to be found, in place of `nprobe`; "
            "1 searches all cells.",
        ),
    ] = None


class SearchById(Options):
    """A search for what is like a row of the index."""

    id: Annotated[StrictInt, Field(ge=0, le=LARGEST_ID, description="Id of an indexed row.")]
    exclude_self: Annotated[bool, Field(description="Whether to leave that row out.")] = False


class IndexedPart(BaseModel):
    """A row of the index as a part of a query."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[StrictInt, Field(ge=0, le=LARGEST_ID, description="Id of an indexed row.")]
    weight: Weight = 1.0


class SearchByParts(Options):
    """A search for what is like several rows of the index, and less like others."""

    parts: Annotated[
        list[IndexedPart],
        Field(min_length=1, max_length=MAX_PARTS, description="Rows, which are one query."),
    ]
    exclude_self: Annotated[bool, Field(description="Whether to leave these rows out.")] = False


class FormPart(BaseModel):
    """An upload, or an image of the index, as a part of a query; exactly one of both."""

    model_config = ConfigDict(extra="forbid")

    image: Annotated[
        StrictInt | None,
        Field(ge=0, lt=MAX_PARTS, description="Number of the file in the form, from 0."),
    ] = None
    id: Annotated[
        StrictInt | None, Field(ge=0, le=LARGEST_ID, description="Id of an indexed image.")
    ] = None
    weight: Weight = 1.0


class SearchForm(Options):
    """A search for what is like an image, or several as one query."""

    parts: Annotated[
        Json[list[FormPart]] | None,
        Field(
            max_length=MAX_PARTS,
            description="A JSON array of all parts of the query with their weights, such as "
            '`[{"image": 0}, {"id": 17, "weight": -0.25}]`; by default the files of the form, '
            "with equal weights.",
        ),
    ] = None
    exclude_self: Annotated[
        bool, Field(description="Whether to leave out the indexed images of the query.")
    ] = False


class SearchByVector(Options):
    """A search by a vector: features of the network of an index of images, or a vector."""

    vector: Annotated[
        list[Annotated[FiniteFloat, Field(ge=-3.4e38, le=3.4e38)]],
        Field(min_length=1, max_length=1 << 16, description="As many numbers as `/index` says."),
    ]


class Result(BaseModel):
    """One result; those of an index of vectors have a rank, a distance and an id alone."""

    rank: Annotated[int, Field(ge=1)]
    distance: float
    similarity: Annotated[float | None, Field(ge=0, le=100)] = None
    id: Id
    path: str | None = None
    path_bytes: Annotated[str | None, Field(description="In Base64, if it is not UTF-8.")] = None
    attributes: dict[str, Any] | None = None


class QueryPart(BaseModel):
    """A part of a query that has several."""

    path: Annotated[str | None, Field(description="Name of the upload, or path of the image.")] = (
        None
    )
    path_bytes: str | None = None
    weight: float
    id: Annotated[int | None, Field(description="Id of a row of the index.")] = None


class SearchAnswer(BaseModel):
    """The results of a search, nearest first."""

    query: Annotated[
        str | int | None, Field(description="Name of the upload, or the path or id of the row.")
    ]
    query_bytes: str | None = None
    parts: Annotated[
        list[QueryPart] | None,
        Field(description="The parts of a query that has several; `query` is the first."),
    ] = None
    results: list[Result]


class IndexFacts(BaseModel):
    """What the index is that the server shows."""

    kind: Annotated[str, Field(description="`images` or `vectors`.")]
    rows: int
    snapshot: Annotated[int, Field(description="Grows with each change of the index.")]
    d: Annotated[int, Field(description="Numbers of a vector.")]
    code_bytes: int
    nlist: Annotated[int, Field(description="Number of cells; 0 if the index has none.")]
    recall: Annotated[
        float | None,
        Field(description="The recall of searches that ask for none; null for exact ones."),
    ] = None
    attributes: Annotated[list[str], Field(description="Names that `where` can use.")]
    backbone: Annotated[str | None, Field(description="Network of an index of images.")] = None
    max_k: int
    max_images: Annotated[int, Field(description="Images of one query.")]
    max_upload_bytes: Annotated[int, Field(description="Bytes of a request.")]
    version: Annotated[str, Field(description="Of hyperpq.")]


class Column(BaseModel):
    """What a condition can name."""

    name: str
    type: Annotated[str, Field(description="`number`, `whole number`, `text`, `time` or `bool`.")]
    values: Annotated[
        list[str] | None,
        Field(description="The strings of a column that has few different ones."),
    ] = None


class SampleImage(BaseModel):
    """An image of the index."""

    id: Id
    path: str


class GroupLabel(BaseModel):
    """A value that many images of a group share."""

    column: str
    value: str
    share: Annotated[float, Field(ge=0, le=1)]


class Group(BaseModel):
    """Images that are like each other."""

    number: Annotated[int, Field(ge=0)]
    level: Annotated[int, Field(ge=0, description="0 for the group of all images.")]
    parent: int | None
    children: Annotated[list[int], Field(description="Numbers of its parts.")]
    size: Annotated[int, Field(ge=1, description="Number of images.")]
    representatives: Annotated[
        list[SampleImage], Field(max_length=9, description="The most typical image is first.")
    ]
    spread: Annotated[float, Field(description="Root mean square distance to the mean.")]
    title: str
    labels: list[GroupLabel]


class Groups(BaseModel):
    """All images in nested groups."""

    snapshot: int
    levels: Annotated[list[int], Field(description="Number of groups of each level.")]
    clusters: Annotated[list[Group], Field(description="By their numbers.")]


class MapGroup(BaseModel):
    """A group as a rectangle in the unit square."""

    parent: int | None
    children: list[int]
    size: int
    title: str
    labels: list[tuple[str, float]]
    typical: Annotated[list[int], Field(description="Numbers of files that stand for it.")]
    box: Annotated[list[float], Field(description="Left, top, width and height.")]
    files: Annotated[list[int], Field(description="First number of its files, and the end.")]


class ImageMap(BaseModel):
    """A map of the images, as a page draws it."""

    snapshot: int
    clusters: list[MapGroup]
    frame: Annotated[float, Field(description="Frame of a box, as a share of its shorter side.")]
    folders: list[list[str]]
    files: Annotated[
        list[list[int | str]], Field(description="Number of the folder, name and id of each.")
    ]
    side: int
    columns: int


class Disk(BaseModel):
    """The codewords of a subspace on the unit disk, see `hyperpq.explore.CodewordDisk`."""

    m: int
    geometry: str
    kind: str
    curvature: float
    positions: list[tuple[float, float]]
    distances: list[float]
    usage: list[int]
    shown: float
    used: int
    entropy: float
    perplexity: float


class Codewords(BaseModel):
    """The codewords of all subspaces."""

    snapshot: int
    disks: list[Disk]


class Health(BaseModel):
    """Whether the server works."""

    status: str


class Problem(BaseModel):
    """Why a request has no answer, in one sentence."""

    detail: str
