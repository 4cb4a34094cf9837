"""One YAML per method with the values of its paper; `scale/` says where it runs."""
