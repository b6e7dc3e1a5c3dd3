"""What a bug report needs, printed."""


def show_versions() -> None:
    """Prints the versions of everything kvision stands on, and the state of its native library."""
    import kvision

    print(f"kvision: {kvision.__version__}")
