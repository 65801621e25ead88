"""Which recipe made a file: what is written into it, so that whoever holds it can tell (docs/provenance.md).

It is the same for the same recipe: no time, no job, no host. Nothing of the prompt is in it but the hash of the whole input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from xml.sax.saxutils import escape

SCHEMA = 1
"""Of the recipe's JSON; grows when a field changes its meaning (docs/provenance.schema.json)."""
PRODUCT = "Killa Tamata"
NAMESPACE = "urn:killatamata:provenance:"
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""IPTC NewsCodes, Digital Source Type: how search engines and social networks learn that a model made a picture."""

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:killatamata="{namespace}">
<xmp:CreatorTool>{tool}</xmp:CreatorTool>
<Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
<killatamata:Recipe>{recipe}</killatamata:Recipe>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What made a file.

    `seed` is what the engine ran with, `input_sha256` is `Task.hash_input` of the effective input, its seed included.
    `edited` says that a caller's picture was changed, not one made from nothing.
    """

    task: str
    engine: str
    weights_digest: str
    stand_in: bool
    seed: int
    input_sha256: str
    edited: bool = False

    def as_json(self) -> dict[str, Any]:
        """The recipe as docs/provenance.schema.json has it."""
        return {
            "schema": SCHEMA,
            "product": PRODUCT,
            "productVersion": version("killatamata"),
            "task": self.task,
            "engine": self.engine,
            "weightsDigest": self.weights_digest,
            "standIn": self.stand_in,
            "seed": self.seed,
            "effectiveInputSha256": self.input_sha256,
        }

    def as_xmp(self) -> bytes:
        """An XMP packet (ISO 16684-1): the recipe, the program that made the file, and that a model did."""
        recipe = self.as_json()
        packet = _PACKET.format(
            namespace=NAMESPACE,
            tool=escape(f"{recipe['product']} {recipe['productVersion']}"),
            source_type=_SOURCE_TYPES
            + ("compositeWithTrainedAlgorithmicMedia" if self.edited else "trainedAlgorithmicMedia"),
            recipe=escape(json.dumps(recipe, separators=(",", ":"))),
        )
        return packet.encode()
