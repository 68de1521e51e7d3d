r"""Check certificates in exact arithmetic.

Run as ``python -I -S proofs/check.py FILE ...``: it imports nothing of llmq, only the standard
library and the files ``check_*.py`` beside it, which are all that has to be trusted. Exit code 0:
all accepted; 4: one is rejected, for the reason printed; 2: one cannot be read, or a wrong call. A
file has at most 16 MB and takes at most 60 seconds; what takes longer is rejected.

A certificate is a JSON object: a *claim* about a *problem*, with the numbers that prove it.

=======================  =====================================================  ==================
claim                    what is proved                                         checked by
=======================  =====================================================  ==================
``unstable`` (C1)        no policy is stable at these rates                     check_planning.py
``stable_rate`` (C2)     batches serve the rates in less than all engine time
``optimal_load`` (C3)    the least load, or a lower bound of it: it says which
``linear_foster`` (C4)   drift of the backlog, and bounds that follow           check_drift.py
``pl_lyapunov`` (C5)     two stations are stable under work conservation        check_network.py
``quadratic_maxweight``  a bound of the mean backlog under MaxWeight (C6)       check_drift.py
``finite_chain`` (C7)    the only stationary law of a chain, and means          check_chain.py
``fluid_cycle``          fluid queues under priorities grow for ever            check_fluid.py
``tile_inequality`` (C8)  no batch has a higher token rate than a full one      check_chain.py
``tile_counterexample``  a batch has, and this one the highest of all (C8)
=======================  =====================================================  ==================

What is said of a planning problem also says whether it holds at the settings of the problem or of
the hardware, whatever they are.

Rationals are ``"p/q"`` in lowest terms; floats are refused. ``digest`` is the SHA-256 of the
problem as canonical JSON (sorted keys, no spaces, ASCII), ``seal`` that of everything but the seal.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

if "proofs" not in sys.modules:
    # With -I, Python does not look beside this file: let it find this one folder, by this name.
    HERE = Path(__file__).resolve().parent
    found = spec_from_file_location(
        "proofs", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    assert found is not None
    sys.modules["proofs"] = module_from_spec(found)

from proofs.check_chain import check_chain, check_tiles
from proofs.check_drift import check_foster, check_maxweight
from proofs.check_fluid import check_fluid
from proofs.check_network import check_network
from proofs.check_planning import check_load
from proofs.check_reading import Malformed, Rejected, canonical, parse, require, table

FORMAT = "llmq-certificate-1"
SECONDS, LARGEST_FILE, MOST_SAID = 60, 16_000_000, 20_000
HEAD = ("format", "claim", "digest", "problem", "seal")
Check = Callable[[dict[str, Any]], str]
CLAIMS: dict[str, tuple[Check, tuple[str, ...]]] = {
    "unstable": (check_load, ("load", "dual")),
    "stable_rate": (check_load, ("load", "primal")),
    "optimal_load": (check_load, ("load", "dual", "primal")),
    "linear_foster": (check_foster, ("load", "foster")),
    "pl_lyapunov": (check_network, ("lyapunov",)),
    "quadratic_maxweight": (check_maxweight, ("maxweight",)),
    "finite_chain": (check_chain, ("stationary", "means")),
    "fluid_cycle": (check_fluid, ("fluid",)),
    "tile_inequality": (check_tiles, ("full",)),
    "tile_counterexample": (check_tiles, ("full", "best")),
}


def check(text: str) -> str:
    """Return what the certificate proves; raise Rejected if it proves nothing."""
    raw = parse(text)
    require(raw.get("format") == FORMAT, f"not of format {FORMAT!r}")
    require((claim := str(raw.get("claim"))) in CLAIMS, f"unknown claim {claim!r}")
    verify, proof = CLAIMS[claim]
    says = "says" if verify is check_load else ""
    body = table(raw, "certificate", (*HEAD, *proof), may=says)
    require(body["digest"] == canonical(body["problem"]), "the digest does not match the problem")
    require(body.pop("seal") == canonical(body), "the seal does not match the certificate")
    return f"{claim}, {verify(body)}, problem {body['digest']}"


def too_long(*_: object) -> None:
    """Stop: the time is over."""
    raise Rejected(f"not checked within {SECONDS} seconds")


def read(path: str) -> str:
    """Read a text of bounded size."""
    with Path(path).open("rb") as file:
        raw = file.read(LARGEST_FILE + 1)
    if len(raw) > LARGEST_FILE:
        raise Malformed(f"larger than {LARGEST_FILE} bytes")
    return raw.decode("utf-8")


def plain(text: str) -> str:
    """Make one line of bounded length: names in a certificate are anybody's text."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:MOST_SAID])
    return line + "..." * (len(text) > MOST_SAID)


def verdict(path: str) -> tuple[int, str]:
    """Return the exit code of one file and what to print."""
    try:
        return 0, f"accepted: {plain(check(read(path)))}"
    except OSError as error:
        return 2, f"cannot be read: {error.strerror}"
    except (Malformed, ValueError) as error:
        # A value error: a path with a zero byte, bytes that are no text.
        return 2, f"rejected: {plain(str(error))}"
    except Rejected as error:
        return 4, f"rejected: {plain(str(error))}"
    except Exception as error:
        # Whatever goes wrong, nothing was proved.
        return 4, f"rejected: {plain(repr(error))}"


def main(paths: list[str]) -> int:
    """Check files; return the exit code."""
    code = 0 if paths else 2
    sys.stderr.write("" if paths else "usage: python -I -S proofs/check.py FILE ...\n")
    timed = hasattr(signal, "SIGALRM")
    if timed:
        signal.signal(signal.SIGALRM, too_long)
    for path in paths:
        if timed:
            signal.alarm(SECONDS)
        one, said = verdict(path)
        if timed:
            signal.alarm(0)
        code = max(code, one)
        sys.stdout.write(f"{path}: {said}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
