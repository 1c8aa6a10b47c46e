# A server on asyncio alone: it upgrades to "echo", and answers a body in capitals.
import asyncio
import sys


async def serve(reader, writer):
    try:
        head = (await reader.readuntil(b'\r\n\r\n')).decode('latin1')
        lines = head.lower().split('\r\n')
        if 'post /upper ' in lines[0] + ' ':
            length = next(int(line[15:]) for line in lines if line.startswith('content-length:'))
            body = (await reader.readexactly(length)).upper()
            writer.write(b'HTTP/1.0 200 OK\r\n\r\n' + body)
        elif 'upgrade: echo' not in lines:
            writer.write(b'HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo\r\nConnection: close\r\nContent-Length: 11\r\n\r\necho alone\n')
        else:
            writer.write(b'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n')
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', int(sys.argv[1]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
