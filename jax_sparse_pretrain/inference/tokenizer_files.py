def difference(a, b):
  return ''


first_difference = difference


def tokenizer_files(t, n):
  return {}
