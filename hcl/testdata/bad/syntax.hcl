worker "linux" {
  provider = provider.test.main
  count = [1, 2
}

builder "unit" {
