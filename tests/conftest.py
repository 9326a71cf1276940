"""What every test may count on: one thread for arithmetic, and no network beyond this machine."""

import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

# Before torch is imported: the tests run in two processes on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


def _is_local(host: Any) -> bool:
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that talks to another machine, even where its code catches the error.

    Processes that a test starts are not watched: the only one with leave to use the package index is Colab's pip.
    """
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host: Any) -> None:
        # pytest.fail raises what `except Exception` does not catch.
        if not _is_local(host):
            pytest.fail(f"this test wanted to reach {host}; tests stay on this machine", pytrace=True)

    def checked(method: Any) -> Any:
        def connected(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0])
            return method(self, address)

        return connected

    def resolved(host: Any, *arguments: Any, **options: Any) -> Any:
        check(host)
        return getaddrinfo(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", checked(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", checked(connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", resolved)


@pytest.fixture
def gains_what_its_slope_says() -> Callable[..., None]:
    """Checks that a small step against the gradient lowers a loss by what its slope says.

    So that training can learn. How far it gets is asked of no test: that depends on the machine.
    """

    def check(weights: Iterable[torch.Tensor], loss: Callable[[], torch.Tensor], gain: float = 1e-3) -> None:
        weights = list(weights)
        before = loss()
        gradients = torch.autograd.grad(before, weights)  # an error for a weight that the loss does not reach
        rate = gain / sum(slope.square().sum() for slope in gradients)
        with torch.no_grad():
            for weight, slope in zip(weights, gradients, strict=True):
                weight -= rate * slope
            assert float(before - loss()) == pytest.approx(gain, rel=0.05)

    return check
