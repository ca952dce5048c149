#!/usr/bin/env python3
"""Counts what Doxygen's XML documents of the library's public symbols: count_symbols.py build/docs/xml"""

import collections
import pathlib
import sys
import xml.etree.ElementTree as xml

count = collections.Counter()
for path in pathlib.Path(sys.argv[1]).glob("*.xml"):
    for compound in xml.parse(path).getroot().findall("compounddef"):
        if compound.get("kind") in ("struct", "class", "concept") and compound.get("prot") != "private":
            count["types and concepts"] += 1
        # A file lists again what namespaces and types hold.
        if compound.get("kind") not in ("struct", "class", "namespace") or compound.get("prot") == "private":
            continue
        for member in compound.iter("memberdef"):
            text = "".join("".join(member.find(part).itertext()) for part in ("briefdescription", "detaileddescription"))
            if member.get("prot") != "private" and text.strip():
                count[{"variable": "variables", "enum": "enumerations", "typedef": "aliases"}.get(member.get("kind"), "functions")] += 1
if sum(count.values()) < 1000:
    sys.exit("only " + str(sum(count.values())) + " symbols were found: were the headers read?")
print(f"{sum(count.values())} public symbols documented (" + ", ".join(f"{n} {kind}" for kind, n in count.most_common()) + ")")
