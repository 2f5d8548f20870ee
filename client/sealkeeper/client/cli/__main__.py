"""``python -m sealkeeper.client.cli`` is ``sealkeeper``."""

from sealkeeper.client.cli import main

main()
