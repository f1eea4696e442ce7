"""Models are tested with torchvision loaded as we do: without PyTorch's compiler, which takes seconds to load."""

from pplib.files.late_import import without_compiler

with without_compiler():
    import torchvision  # noqa: F401
