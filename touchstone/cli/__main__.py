from touchstone.cli.main import main

main()
