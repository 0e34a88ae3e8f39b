"""What a report page holds, read from its HTML."""

import json
from html.parser import HTMLParser

import pandas as pd

ADDRESSES = ("src", "href", "action", "srcset", "data", "poster", "xlink:href")


class Page(HTMLParser):
    """A page's addresses, scripts, identifiers, and the texts of its tables' cells."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses, self.scripts, self.tags = [], [], [""]
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.text, self._rows = "", []
        self.feed(text)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        known = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.addresses += [known[name] for name in ADDRESSES if name in known]
        assert not [name for name in known if name.startswith("on")]
        if tag == "script":
            self.scripts.append("")
        elif tag == "table":
            self._rows = self.tables.setdefault(known["id"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            value = known.get("data-v") or known.get("data-name", "")
            self._rows[-1].append([value, ""])

    def handle_data(self, data):
        if self.tags[-1] == "script":
            self.scripts[-1] += data
        elif self.tags[-1] == "td":
            self._rows[-1][-1][1] += data.strip("\n")
        else:
            self.text += data

    def frame(self, name: str) -> pd.DataFrame:
        """A table as it would be downloaded."""
        head, *rows = self.tables[f"table-{name}"]
        cells = [[value or text for value, text in row] for row in rows]
        return pd.DataFrame(cells, columns=[value for value, _ in head])
