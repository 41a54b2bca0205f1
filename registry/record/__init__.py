"""The parts of the one writer, `registry.service.Registry`. Nothing else imports them."""
