"""Narrow models that are found by following one forward call, against what their authors would
build at that width.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hydro_hpc.surrogate import Surrogate, shrink
from hydro_hpc.surrogate.by_trace import trace_of
from hydro_hpc.surrogate.table import Kind
from hydro_hpc.surrogate.tracing.calling import called
from tests.hydro_hpc.surrogate.tracing.unusual_models import MODELS

WIDTH, BY = 64, 4
RAW = ("raw", "standardised", "vit", "experts", "latents", "scaled", "graph", "crossed")
"""Whose parameters are of no layer."""


@functools.cache
def shrunk(name: str) -> Surrogate:
    """Followed once for all tests, which leave it as it is."""
    build, example = MODELS[name]
    return shrink(build(WIDTH), by=BY, example=example)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODELS)
def test_a_followed_model_has_its_authors_sizes(name: str) -> None:
    build, example = MODELS[name]
    authors = build(WIDTH // BY)
    narrow = copy.deepcopy(shrunk(name).module)
    expected = {key: tuple(tensor.shape) for key, tensor in authors.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in narrow.state_dict().items()} == expected
    assert repr(narrow) == repr(authors)
    authors.load_state_dict(narrow.state_dict())
    for module in narrow.modules():
        module._forward_pre_hooks.clear()  # the readout's multiplier, which the author has not
    torch.testing.assert_close(called(narrow.eval(), example), called(authors.eval(), example))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODELS)
def test_the_rules_are_those_of_a_function_of_the_width(name: str) -> None:
    build, example = MODELS[name]
    followed = shrunk(name).rules
    uses = example if name in RAW else None  # else by the classes of modules
    built = shrink(lambda width=WIDTH: build(width), by=BY, example=uses).rules
    assert followed == built


@pytest.mark.parametrize("name", ["cached", "dropped", "lstm"])
def test_following_a_model_leaves_it_as_it_was(name: str) -> None:
    build, example = MODELS[name]
    target = build(WIDTH)
    before = [{**vars(m), **m._buffers, **m._parameters} for m in target.modules()]
    shrink(target, by=BY, example=example)
    for module, own in zip(target.modules(), before, strict=True):
        after = {**vars(module), **module._buffers, **module._parameters}
        assert after.keys() == own.keys()
        assert all(after[key] is own[key] or after[key] == own[key] for key in own)


def test_gains_whose_results_are_averaged_are_no_readouts() -> None:
    kinds = {shrunk("scaled").rules[name].kind for name in ("gain", "shift", "scale")}
    assert kinds == {Kind.VECTOR}


class Patterned(nn.Module):
    """It begins as an identity: of stacked gates, of a convolution."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.into, self.cells = nn.Conv1d(3, width, 1), nn.GRU(width, width, batch_first=True)
        self.conv, self.out = nn.Conv1d(width, width, 3, padding=1), nn.Linear(width, 3)
        for gate in self.cells.weight_hh_l0.chunk(3):
            nn.init.eye_(gate)
        nn.init.dirac_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.into(x)).transpose(1, 2)
        return self.out(self.cells(x)[0])  # type: ignore[no-any-return]


def test_an_identity_stays_one() -> None:
    narrow = shrink(Patterned(), by=BY, example=torch.randn(2, 3, 5)).module
    expected = Patterned(WIDTH // BY)
    for name in ("cells.weight_hh_l0", "conv.weight"):
        torch.testing.assert_close(narrow.get_parameter(name), expected.get_parameter(name))


class Nodes(nn.Module):
    """Rows of a table are averaged over a graph, before those that are asked for are taken."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(40, width), nn.Linear(width, 3)
        self.register_buffer("graph", torch.softmax(torch.randn(40, 40), -1))

    def forward(self, nodes: Tensor) -> Tensor:
        rows = self.table.weight + self.graph @ self.table.weight
        found: Tensor = self.out(rows[nodes].relu())
        return found


class Before(nn.Module):
    """A learned average of what came before, for longer texts than the example."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.tokens, self.out = nn.Embedding(30, width), nn.Linear(width, 30)
        self.average = nn.Parameter(torch.tril(torch.rand(16, 16)))

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        found: Tensor = self.out(self.average[:length, :length] @ self.tokens(tokens))
        return found


@pytest.mark.parametrize("way", ["function", "model"])
@pytest.mark.parametrize(
    ("model", "example", "kept"),
    [
        (Nodes, torch.arange(8), "table.weight"),
        (Before, torch.randint(0, 30, (2, 10)), "average"),
    ],
)
def test_rows_and_places_that_products_take_are_no_width(
    model: type[nn.Module], example: Tensor, kept: str, way: str
) -> None:
    given = model() if way == "model" else model
    surrogate = shrink(given, by=BY, example=example)
    sizes = {name: tuple(own.shape) for name, own in surrogate.module.named_parameters()}
    assert sizes["out.weight"][1] == WIDTH // BY
    assert sizes[kept][0] == model().get_parameter(kept).shape[0]
    assert surrogate.rules[kept].kind in (Kind.INPUT, Kind.FIXED)


class Windows(nn.Module):
    """Of an image, as shifted windows have it: the image's sides and the window's are kept."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.resolution, self.window, self.dim = (8, 8), 4, width
        self.into, self.qkv = nn.Conv2d(3, width, 2, 2), nn.Linear(width, 3 * width)
        self.heads, self.out = width // 8, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x).flatten(2).transpose(1, 2)
        (rows, columns), (images, places, width) = self.resolution, x.shape
        assert places == rows * columns
        down, right = rows // self.window, columns // self.window
        x = x.view(images, down, self.window, right, self.window, width).transpose(2, 3)
        qkv = self.qkv(x.reshape(-1, self.window * self.window, width))
        qkv = qkv.view(-1, self.window**2, 3, self.heads, width // self.heads)
        x = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2)
        x = x.reshape(images, down, right, self.window, self.window, width).transpose(2, 3)
        return self.out(x.reshape(images, places, width).mean(1))  # type: ignore[no-any-return]


def test_sizes_that_divide_an_image_are_numbers_as_soon_as_that_shows() -> None:
    """Else nothing is wrong, but it takes minutes."""
    model = Windows()
    seen = trace_of(model, torch.randn(2, 3, 16, 16))
    numbers = {attribute.key: size for attribute, size in seen.attributes if size.is_number}
    assert numbers == {"resolution": 8, "window": 4}
    narrow = shrink(model, by=BY, example=torch.randn(2, 3, 16, 16)).module
    assert narrow.heads == WIDTH // 8 // BY
    assert (narrow.window, narrow.resolution) == (4, (8, 8))


def test_frozen_tables_of_positions_keep_sines_beside_cosines() -> None:
    class Frozen(nn.Module):
        def __init__(self, width: int = WIDTH) -> None:
            super().__init__()
            self.tokens, self.out = nn.Embedding(9, width), nn.Linear(width, 9)
            angles = torch.arange(12.0)[:, None] / 100 ** (torch.arange(0, width, 2) / width)
            table = torch.stack((angles.sin(), angles.cos()), -1).flatten(1)
            self.places = nn.Embedding.from_pretrained(table, freeze=True)

        def forward(self, tokens: Tensor) -> Tensor:
            found: Tensor = self.out(self.tokens(tokens) + self.places(tokens))
            return found

    example = torch.arange(8)
    narrow = shrink(Frozen(), by=BY, example=example).module
    table = narrow.get_parameter("places.weight")
    torch.testing.assert_close(
        table[:, 0::2] ** 2 + table[:, 1::2] ** 2, torch.ones(12, WIDTH // 8)
    )
    assert not table.requires_grad
    for given in (None, example):
        built = shrink(Frozen, by=BY, example=given)
        assert torch.equal(built.module.places.weight, Frozen(WIDTH // BY).places.weight)


def test_tables_of_positions_keep_sines_beside_cosines() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.out = nn.Embedding(30, WIDTH), nn.Linear(WIDTH, 30)
            angles = torch.arange(16.0)[:, None] * 1e4 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
            table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
            self.register_buffer("places", table)

        def forward(self, tokens: Tensor) -> Tensor:
            found: Tensor = self.out(self.tokens(tokens) + self.places[: tokens.shape[1]])
            return found

    example = torch.randint(0, 30, (2, 10))
    table = shrink(Placed(), by=BY, example=example).module.get_buffer("places")
    sines, cosines = table[:, 0::2], table[:, 1::2]
    torch.testing.assert_close(sines.square() + cosines.square(), torch.ones(16, WIDTH // BY // 2))


class Folded(nn.Module):
    """A decoder that folds vectors into images, whose number is left to the view."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.width, self.into = width, nn.Linear(5, 4 * width)
        self.up, self.out = nn.ConvTranspose2d(width, width, 2, 2), nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x).view(-1, self.width, 2, 2)
        found: Tensor = self.out(self.up(x).relu())
        return found


def test_what_is_folded_shrinks_though_its_number_is_inferred() -> None:
    narrow = shrink(Folded(), by=BY, example=torch.randn(7, 5)).module
    assert narrow.get_parameter("into.weight").shape == (4 * WIDTH // BY, 5)
    assert narrow.get_parameter("up.weight").shape[:2] == (WIDTH // BY, WIDTH // BY)
    assert narrow(torch.randn(4, 5)).shape == (4, 3, 4, 4)


class Parts(nn.Module):
    """Of its features, whose sizes it keeps: one goes around the first layer."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.places, self.views = 6, 3
        self.into, self.skip = nn.Linear(6, width), nn.Linear(width + 6, width)
        self.out = nn.Linear(width + 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        places, views = torch.split(x, [self.places, self.views], dim=-1)
        h = self.skip(torch.cat((places, self.into(places).relu()), -1)).relu()
        found: Tensor = self.out(torch.cat((h, views), -1))
        return found


def test_parts_of_the_features_stay() -> None:
    narrow = shrink(Parts(), by=BY, example=torch.randn(5, 9)).module
    expected = Parts(WIDTH // BY)
    assert (narrow.places, narrow.views) == (6, 3)
    for name, parameter in narrow.named_parameters():
        assert parameter.shape == expected.get_parameter(name).shape, name
