"""Serves `gs://bucket` from memory at a port: bucket_server.py PORT.

What the emulator lacks: the generation of an object beside its content,
uploads and downloads on condition of it, on which Orbax's arrays rely, and
moves within a bucket.
"""

import sys
import threading
from http import HTTPStatus

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_download, _insert = objects.download, objects.insert


def _name(request) -> str:
  if 'object_id' in request.params:
    return request.params['object_id']
  if 'name' in request.query:
    return request.query['name'][0]
  return request.data['meta']['name']


def _generation(storage, request) -> str:
  """Of the object as it is; 0 if there is none."""
  try:
    found = storage.get_file_obj(request.params['bucket_name'], _name(request))
  except NotFound:
    return '0'
  return found['generation']


def download(request, response, storage, *args, **kwargs):
  found = _generation(storage, request)
  if request.query.get('ifGenerationNotMatch') == [found]:
    response.status = HTTPStatus.NOT_MODIFIED
    return
  if found != '0':
    response['x-goog-generation'] = found
  _download(request, response, storage, *args, **kwargs)


def insert(request, response, storage, *args, **kwargs):
  found = _generation(storage, request)
  if request.query.get('ifGenerationMatch', [found]) != [found]:
    response.status = HTTPStatus.PRECONDITION_FAILED
    return
  _insert(request, response, storage, *args, **kwargs)


def move(request, response, storage, *args, **kwargs):
  bucket = request.params['bucket_name']
  request.params['dest_bucket_name'] = bucket
  objects.copy(request, response, storage, *args, **kwargs)
  if response.status == HTTPStatus.OK:
    storage.delete_file(bucket, request.params['object_id'])


MOVE = (
  r'^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.+)'
  r'/moveTo/o/(?P<dest_object_id>.+)$'
)


if __name__ == '__main__':
  objects.download, objects.insert = download, insert
  # Its routes are made of the functions as they are when it is imported.
  from gcp_storage_emulator import server

  server.HANDLERS = ((MOVE, {server.POST: move}), *server.HANDLERS)
  server.create_server('127.0.0.1', int(sys.argv[1]), True, 'bucket').start()
  threading.Event().wait()
