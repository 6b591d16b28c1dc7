"""What all ops share: dispatch, custom operators, checks, errors, the native loader, precision, packing."""
