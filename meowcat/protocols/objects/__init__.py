"""What stores of objects have in common: requests that are signed one by one, small XML documents, uploads in
parts. S3 and OSS are made of all of it, Azure of what it has, too.
"""
