"""python -m vlgen: the same as the command vlgen."""

from vlgen.cli import main

main()
