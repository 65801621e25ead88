"""`python -m tests.chaos.storm.ingress --fd N`: the ingress in disguise."""

from __future__ import annotations

from api import __main__ as ingress
from api import app, services
from tests.chaos.storm import disguise

if __name__ == "__main__":
    assert app is not None
    assert services is not None
    disguise.wear()
    ingress.main()
