"""`python -m tests.webhooks.process`: the background process, on a schedule for the impatient."""

from __future__ import annotations

import asyncio

from api.services import Services
from core.log import configure
from core.settings import Settings
from killatamata.background import Background, until_signalled
from tests.webhooks.scene import FAST

if __name__ == "__main__":
    configure("info", json=True)
    asyncio.run(until_signalled(Background(Services.of(Settings()), schedule=FAST, sweeps=())))
