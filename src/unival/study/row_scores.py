"""The primary score of every test row, by model: what any two results are compared by, row by row.

`metrics/rows.parquet` holds the cells of models and of points between two, `ablations/rows.parquet` those of
variants. Rows of two files are the same where task, split, row and medium are.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from unival import files
from unival.errors import UserError

if TYPE_CHECKING:
    import pandas

    from unival.study.cells import Result

NAME = "rows.parquet"
COLUMNS = ("model", "task", "split", "row", "medium", "metric", "score")
"""model: folder below models/, `<first>-<second>@<place>` of a point between two models, or
`<study>/<variant>`; split: with corruption and severity where there is one, `test-blur-3`; row: its id;
medium: `<kind>=<key>`."""


def write(path: Path, results: Iterable[tuple[str, "Result"]]) -> None:
    """Write the rows of (model, result) pairs, whole or not at all."""
    import pandas

    frames = [
        pandas.DataFrame(
            {
                "model": model,
                "task": result.spec.task,
                "split": result.spec.place,
                "row": result.ids,
                "medium": result.media,
                "metric": result.primary,
                "score": result.scores,
            }
        )
        for model, result in results
    ]
    table = pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame(columns=COLUMNS)
    table = table.astype(dict.fromkeys(COLUMNS[:-1], "category") | {"score": float})
    with files.atomic(path) as part:
        table.to_parquet(part, index=False, compression="zstd")


def read(path: Path) -> "pandas.DataFrame":
    """The rows of a file, with COLUMNS.

    Raises:
        UserError: it cannot be read, or has other columns.
    """
    import pandas

    try:
        table = pandas.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a table of rows: {error}: run `dvc repro`") from error
    if tuple(table.columns) != COLUMNS:
        raise UserError(f"{path}: columns {', '.join(table.columns)}, expected {', '.join(COLUMNS)}")
    return table
