"""seqconv's ops in other projects' models. Importing anything here changes nothing: each integration is a call."""
