"""Tables of results pages, as Markdown."""

import pandas as pd

from ioca_jax.inference import claims


def markdown(table: pd.DataFrame) -> str:
    """The table with its columns' names, in Markdown's syntax."""
    lines = [table.columns.tolist(), ["---"] * len(table.columns)]
    lines += table.astype(str).values.tolist()
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def verdict_counts(verdicts: pd.Series) -> str:
    """Of some comparisons, how many hold / fail / are undecided."""
    return " / ".join(str((verdicts == v).sum()) for v in claims.VERDICTS)


def verdict_table(judged: pd.DataFrame, by: str) -> pd.DataFrame:
    """A row per claim, a column per value of ``by``: holds / fails / undecided."""
    cells = judged.pivot_table(
        index="claim", columns=by, values="verdict", aggfunc=verdict_counts, sort=False
    )
    found = claims.claims_of(judged)
    cells = cells.reindex(index=list(found), columns=judged[by].unique())
    described = [f"{name}: {claim.text}" for name, claim in found.items()]
    table = cells.fillna("").reset_index(drop=True)
    table.insert(0, "claim", described)
    return table
