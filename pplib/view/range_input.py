"""A slider with a visible label and an accessible name: the browser's own `<input type="range">`.

The sliders of ipywidgets cut long labels off and give screen readers no name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anywidget
import traitlets

_SCRIPT = """
function render({ model, el }) {
  const box = document.createElement("label"), name = document.createElement("span");
  const input = document.createElement("input"), value = document.createElement("output");
  box.className = "pp-range";
  input.type = "range";
  input.min = 0;
  input.step = 1;
  input.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrow keys for itself
  const words = () => model.get("labels")[Number(input.value)];
  const say = () => { value.textContent = words(); input.setAttribute("aria-valuetext", words()); };
  const show = () => {
    name.textContent = model.get("description");
    input.setAttribute("aria-label", model.get("description"));
    input.max = model.get("labels").length - 1;
    input.value = model.get("index");
    say();
  };
  input.addEventListener("input", say);
  input.addEventListener("change", () => { model.set("index", Number(input.value)); model.save_changes(); });
  model.on("change:index", show);
  show();
  box.append(name, input, value);
  el.append(box);
}
export default { render };
"""
_STYLE = """
.pp-range { display: grid; grid-template-columns: minmax(9rem, max-content) minmax(8rem, 22rem) minmax(6rem, auto);
  gap: 0.7rem; align-items: center; margin: 0.15rem 0; }
.pp-range input { width: 100%; }
.pp-range output { font-variant-numeric: tabular-nums; }
@media (max-width: 600px) { .pp-range { grid-template-columns: 1fr auto; } .pp-range span { grid-column: 1 / -1; } }
"""


class RangeInput(anywidget.AnyWidget):
    """A choice among named values, in order; `value` is the chosen one, and may be set.

    Traits:
        description: its label.
        labels: words of every choice.
        index: which is chosen.
        value: the chosen choice's value.
    """

    _esm = _SCRIPT
    _css = _STYLE
    description = traitlets.Unicode().tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    index = traitlets.Int(0).tag(sync=True)
    value = traitlets.Any()

    def __init__(self, description: str, options: Sequence[tuple[str, Any]], value: object) -> None:
        self.options = list(options)
        self._values = [one for _, one in self.options]
        labels = [label for label, _ in self.options]
        super().__init__(description=description, labels=labels, index=self._values.index(value), value=value)

    @traitlets.validate("value")
    def _known(self, proposal: Any) -> object:
        if proposal["value"] not in self._values:
            raise traitlets.TraitError(f"{self.description}: expected one of {self.labels}, got {proposal['value']!r}")
        return proposal["value"]

    @traitlets.observe("value")
    def _value_set(self, change: Any) -> None:
        self.index = self._values.index(change["new"])

    @traitlets.observe("index")
    def _moved(self, change: Any) -> None:
        self.value = self._values[change["new"]]


def numbers(low: float, high: float, step: float, also: float, unit: str) -> list[tuple[str, float]]:
    """Options from `low` to `high`, one of them `also`.

    >>> numbers(0, 1, 0.5, 0.7, "ms")
    [('0 ms', 0.0), ('0.5 ms', 0.5), ('0.7 ms', 0.7), ('1 ms', 1.0)]
    """
    count = round((high - low) / step)
    values = sorted({round(low + i * step, 6) for i in range(count + 1)} | {float(also)})
    return [(f"{value:g} {unit}".strip(), float(value)) for value in values]
