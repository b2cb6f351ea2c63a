"""The commands of ``top-tvm``, one file each; ``cli.py`` joins them."""
