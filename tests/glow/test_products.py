"""Compare the coupling network for CPUs with stock convolutions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glow.layers import products
from glow.layers.networks import FEW_CHANNELS, PlainNetwork
from glow.layers.products import three_convolutions
from tests.glow.flows import perturb

SHAPES = {  # in, out, width, images, height, width of the images
    "wide": (2, 4, 8, 3, 5, 7),
    "one channel, one image": (1, 2, 3, 1, 4, 4),
    "more channels than hidden": (6, 12, 2, 2, 3, 3),
    "one column": (2, 2, 4, 2, 6, 1),
    "one position": (3, 3, 4, 2, 1, 1),
}


def drawn(channels: int, out: int, width: int, images: int, height: int, columns: int, *, dtype=torch.float64):
    """Return images as planes, and weights, as leaves of a graph."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(width, channels, 3, 3), (width,), (width, width, 1, 1), (width,), (out, width, 3, 3), (out,)]
    x = torch.randn(channels, images, height, columns, dtype=torch.float64, generator=generator)
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator) / 3 for shape in shapes]
    return x.to(dtype).requires_grad_(), [weight.to(dtype).requires_grad_() for weight in weights]


def stock(x_CBHW, weights):
    weight1, bias1, weight2, bias2, weight3, bias3 = weights
    hidden = F.relu(F.conv2d(x_CBHW.transpose(0, 1), weight1, bias1, padding=1))
    hidden = F.relu(F.conv2d(hidden, weight2, bias2))
    return F.conv2d(hidden, weight3, bias3, padding=1).transpose(0, 1)


@pytest.mark.parametrize("by_products", [True, False], ids=["products", "stock outside"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_values_and_gradients_are_those_of_the_stock_convolutions(shape, by_products, dtype):
    x, weights = drawn(*shape, dtype=dtype)
    expected, z = stock(x, weights), three_convolutions(x, weights, by_products)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(z, expected, atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(three_convolutions(x, weights, by_products), z, rtol=0, atol=0)
    direction = torch.randn(z.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad(of, [x, *weights], direction) for of in (z, expected)]
    for name, gradient, right in zip(["x", "w1", "b1", "w2", "b2", "w3", "b3"], *gradients, strict=True):
        torch.testing.assert_close(gradient, right, atol=tolerance, rtol=tolerance, msg=f"{name}: {{}}".format)


@pytest.mark.parametrize("by_products", [True, False])
def test_weights_alone_can_be_asked_for(by_products):
    x, weights = drawn(2, 4, 8, 3, 5, 7)
    z, expected = three_convolutions(x.detach(), weights, by_products), stock(x.detach(), weights)
    for gradient, right in zip(*(torch.autograd.grad(of.sum(), weights) for of in (z, expected)), strict=True):
        torch.testing.assert_close(gradient, right)


@pytest.mark.parametrize("by_products", [True, False])
def test_bf16_rounds_but_does_not_stray(by_products):
    x, weights = drawn(2, 4, 32, 4, 8, 8, dtype=torch.float32)
    exact = stock(x, weights)
    rounded = three_convolutions(x, [weight.bfloat16() for weight in weights], by_products)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.03 * exact.abs().max()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16"])
def test_a_network_is_the_same_with_products_and_without(monkeypatch, dtype):
    network = perturb(PlainNetwork(2, 4, 16), 0.2)
    network.compute_dtype = dtype
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    assert x.shape[1] <= FEW_CHANNELS[dtype or torch.float32]
    by_products = network(x)
    monkeypatch.setattr("glow.layers.networks.FEW_CHANNELS", {})
    tolerance = {"atol": 0.03 * by_products.abs().max().item(), "rtol": 0} if dtype else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(network(x), by_products, **tolerance)


def test_what_gpus_and_the_compiler_get_is_the_same(monkeypatch):
    network = perturb(PlainNetwork(2, 4, 16).double(), 0.2)
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = network(x)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    z = network(x)
    torch.testing.assert_close(z, expected, atol=1e-12, rtol=1e-12)
    assert z.transpose(0, 1).is_contiguous()  # planes


@pytest.fixture
def lookups():
    """Forget which operators were found, since each is looked up only once per process."""
    products.exists.cache_clear()
    yield
    products.exists.cache_clear()


def values_and_gradients(network, x):
    x = x.detach().requires_grad_()
    z = network(x)
    return [z, *torch.autograd.grad(z.square().sum(), [x, *network.parameters()])]


def small_network():
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    return perturb(PlainNetwork(2, 4, 16), 0.2), x


def _noted(called: list[str], name: str, real: Callable[..., Any], *args: Any) -> Any:
    called.append(name)
    return real(*args)


def spy(monkeypatch) -> list[str]:
    """Return a list to which the name of each private operator is added when it is called."""
    called: list[str] = []
    assert products.exists(products.CONV_RELU)  # looked up before they are replaced
    assert products.exists(products.LINEAR)
    for name in ("_convolution_pointwise", "_linear_pointwise"):
        real = getattr(torch.ops.mkldnn, name)
        monkeypatch.setattr(torch.ops.mkldnn, name, partial(_noted, called, name, real))
    return called


def test_an_environment_variable_turns_it_off(monkeypatch):
    network, x = small_network()
    expected = values_and_gradients(network, x)
    monkeypatch.setattr("glow.layers.networks.three_convolutions", lambda *_: pytest.fail("not turned off"))
    monkeypatch.setenv("GLOW_PRODUCTS", "0")
    for got, right in zip(values_and_gradients(network, x), expected, strict=True):
        torch.testing.assert_close(got, right, atol=1e-4, rtol=1e-4)
    monkeypatch.setenv("GLOW_PRODUCTS", "1")
    with pytest.raises(pytest.fail.Exception, match="not turned off"):
        network(x)


@pytest.mark.usefixtures("lookups")
@pytest.mark.parametrize("how", ["gone", "other arguments", "one argument more"])
@pytest.mark.parametrize("name", products.SIGNATURES)
def test_an_operator_that_torch_lacks_or_changed_is_not_called(monkeypatch, name, how):
    network, x = small_network()
    expected = values_and_gradients(network, x)
    products.exists.cache_clear()
    if how == "gone":
        monkeypatch.setitem(products.SIGNATURES, f"{name}2", products.SIGNATURES[name])
        constant = next(key for key, value in vars(products).items() if value == name)
        monkeypatch.setattr(products, constant, f"{name}2")
        name = f"{name}2"
    else:
        changed = {"other arguments": "Tensor Tensor int", "one argument more": f"{products.SIGNATURES[name]} int"}
        monkeypatch.setitem(products.SIGNATURES, name, changed[how])
    assert not products.exists(name)
    assert products.enabled() == name.startswith("mkldnn")
    with monkeypatch.context() as patched:  # ends before torch's comparison, which imports modules that use operators
        patched.setattr(torch.ops.mkldnn if name.startswith("mkldnn") else torch.ops.aten, packet(name), refused)
        found = values_and_gradients(network, x)
    for got, right in zip(found, expected, strict=True):
        torch.testing.assert_close(got, right, atol=1e-4, rtol=1e-4)


def packet(name: str) -> str:
    return name.split("::")[1].split(".")[0]


def refused(*args, **kwargs):
    pytest.fail("called although its arguments changed")


@pytest.mark.usefixtures("lookups")
def test_this_torch_has_the_operators():
    """Without the operators, nothing above would test them. One that a newer torch drops is reported here."""
    assert {name: products.exists(name) for name in products.SIGNATURES} == dict.fromkeys(products.SIGNATURES, True)


def test_the_operators_are_what_runs(monkeypatch):
    network, x = small_network()
    called = spy(monkeypatch)
    values_and_gradients(network, x)
    assert set(called) == {"_convolution_pointwise", "_linear_pointwise"}


def test_bf16_runs_on_processors_that_onednn_has_no_bf16_for(monkeypatch):
    network, x = small_network()
    exact = network(x)
    network.compute_dtype = torch.bfloat16
    monkeypatch.setattr(products, "_onednn_has_bf16", lambda: False)
    called = spy(monkeypatch)
    rounded = values_and_gradients(network, x)[0]
    assert called == []
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.03 * exact.abs().max()
