from mmsearch.cli.app import main

main()
