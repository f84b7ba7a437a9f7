"""Tables from files and public sets, split and encoded."""

from kan_tabular.data.files import NA_VALUES, read_file
from kan_tabular.data.module import TableData
from kan_tabular.data.sets import SETS, load_set
from kan_tabular.data.splits import Split, split_rows
from kan_tabular.data.tables import Table, TaskKind, check_table, infer_task, make_table, task_reason

__all__ = [
    "NA_VALUES",
    "SETS",
    "Split",
    "Table",
    "TableData",
    "TaskKind",
    "check_table",
    "infer_task",
    "load_set",
    "make_table",
    "read_file",
    "split_rows",
    "task_reason",
]
