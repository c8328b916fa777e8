"""What kmoddctl shows and `--json` prints (kmoddctl(8)): one file a document, each made of what JSON knows, so that
it is the same whether it was made in kmoddctl or came from the daemon. Pure."""
