"""The files that the runtime image omits, and the layers of the others."""

from pathlib import Path

from images.runtime.split_layers import size_of, split_environment, trim_packages

KEPT = {
    "torch/__init__.py": "torch",
    "torch/bin/torch_shm_manager": "torch",
    "torch/lib/libtorch_cuda.so": "torch",
    "torch/testing/_internal/logging_tensor.py": "torch",
    "torch-2.13.0.dist-info/METADATA": "torch",
    "nvidia/cu13/lib/libcublas.so.13": "cuda",
    "nvidia_cublas-13.1.dist-info/METADATA": "cuda",
    "cuda/bindings/driver.so": "cuda",
    "jinja2/tests.py": "packages",
    "pynvml.py": "packages",
    "transformers/__init__.py": "packages",
    "tritonclient/__init__.py": "packages",
}
DELETED = {
    "numpy/_core/tests/test_dtype.py",
    "nvidia/cu13/bin/ptxas",
    "nvidia/cu13/include/cublas.h",
    "nvidia/cu13/lib/libculibos.a",
    "pip/__init__.py",
    "pip-24.0.dist-info/METADATA",
    "setuptools-84.2.1.dist-info/METADATA",
    "torch/__init__.pyi",
    "torch/bin/protoc",
    "torch/include/ATen/ATen.h",
    "torch/share/cmake/Torch.cmake",
    "triton/_C/libtriton.so",
    "triton-3.7.1.dist-info/METADATA",
}


def environment(directory: Path) -> Path:
    """Create a small environment, and return its site-packages."""
    packages = directory / "lib/python3.11/site-packages"
    for name in KEPT.keys() | DELETED:
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("1234567")
    (directory / "bin").mkdir()
    return packages


def test_unused_files_are_deleted_and_counted(tmp_path: Path) -> None:
    packages = environment(tmp_path)
    before = size_of(packages)
    saved = trim_packages(packages)
    assert {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()} == set(KEPT)
    assert sum(saved.values()) == before - size_of(packages) == 7 * len(DELETED)
    assert saved["triton, which needs a C compiler"] == 14
    # Without metadata a package does not count as installed.
    assert not (packages / "triton-3.7.1.dist-info").exists()


def test_every_package_is_in_exactly_one_layer(tmp_path: Path) -> None:
    packages = environment(tmp_path / "environment")
    trim_packages(packages)
    split_environment(tmp_path / "environment", tmp_path / "layers")
    found = {
        name: layer
        for layer in ("cuda", "torch", "packages")
        for name in KEPT
        if (tmp_path / "layers" / layer / "lib/python3.11/site-packages" / name).exists()
    }
    assert found == KEPT
    assert (tmp_path / "layers/packages/bin").exists()
