"""One thin file per DVC stage or command: parse, read the settings, call the library, write the outputs."""
