"""Sources of the native extension; built, its module is `_kernels`. Used through `core.native`, which checks."""
