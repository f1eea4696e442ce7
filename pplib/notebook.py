"""A notebook's parameters: the names that its parameters cell, or papermill's injected one, sets, and no others.

What else is in the kernel (variables of later cells, of the user, of an IPython start-up file) is none
of our business. Which cell set what is read from the kernel's own history of inputs, `In`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from pplib.config import PARAMETERS, Configuration, configuration
from pplib.errors import ConfigError, nearest

INJECTED = "# Parameters"  # the first line of the cell that papermill puts after the parameters cell


def from_notebook(namespace: Mapping[str, object], **fixed: object) -> Configuration:
    """The configuration a notebook's parameters cell defines, read from its `globals()`, and `fixed`.

    Papermill only warns about a parameter the notebook does not have, and runs with the default;
    here such a name is an error.

    Raises:
        ConfigError: an unknown parameter, or a wrong value.
    """
    return configuration({**notebook_parameters(namespace, PARAMETERS), **fixed})


def reject_unknown(namespace: Mapping[str, object], known: Sequence[str]) -> None:
    """Make sure that a notebook was given no parameter but the `known` ones.

    Raises:
        ConfigError: the unknown one, and those nearest to it.
    """
    for name in notebook_parameters(namespace, known):
        if name not in known:
            raise ConfigError(f"{name}: unknown parameter; {nearest(name, known)}")


def notebook_parameters(namespace: Mapping[str, object], known: Sequence[str]) -> dict[str, object]:
    """The present values of the names that the notebook's parameters cell and papermill's cell after it set.

    The parameters cell is the last input that annotates one of the `known` names. Where there is no
    history (no IPython), the `known` names that there are.
    """
    history = namespace.get("In")
    names: dict[str, None] = {}  # in order
    for text in history if isinstance(history, list) else []:
        assigned, annotated = assigned_names(str(text))
        if annotated & set(known):
            # Of parts of a cell that was split, and run before, what is known stays.
            names = {**{name: None for name in names if name in known}, **dict.fromkeys(assigned)}
        elif str(text).lstrip().startswith(INJECTED):
            names |= dict.fromkeys(assigned)
    return {name: namespace[name] for name in names or known if name in namespace}


def assigned_names(source: str) -> tuple[list[str], set[str]]:
    """The names that a cell assigns at its top level, and those of them that it annotates.

    >>> assigned_names("a: int = 1\\nb = a")
    (['a', 'b'], {'a'})
    """
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):  # it did not run either
        return [], set()
    assigned: list[str] = []
    annotated: set[str] = set()
    for one in statements:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one.value is not None:
            annotated.add(one.target.id)
            assigned.append(one.target.id)
        elif isinstance(one, ast.Assign):
            assigned += [target.id for target in one.targets if isinstance(target, ast.Name)]
    return assigned, annotated
