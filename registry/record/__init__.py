"""The parts of the one writer, `registry.service.Registry`, which composes them."""
